"""What every kernel needs of a row of logits: one part of it, its maximum, weights, and which tokens are kept."""

import triton
import triton.language as tl

# Larger than every token: stands for "none".
NO_TOKEN = tl.constexpr(2**31 - 1)


@triton.jit
def load_part(logits_ptr, row, part, vocab, stride_row, TILE: tl.constexpr):
    """Tokens of a part and their logits in float32; -inf past the end. -0.0 becomes 0.0: the two are a tie."""
    tokens = part * TILE + tl.arange(0, TILE)  # [TILE]
    x = tl.load(logits_ptr + row * stride_row + tokens, mask=tokens < vocab, other=-float("inf")).to(tl.float32)
    return tokens, tl.where(x == 0.0, 0.0, x)


@triton.jit
def load_parts(values_ptr, row, parts, other, PARTS: tl.constexpr):
    """One number per part of a row, [PARTS]."""
    index = tl.arange(0, PARTS)  # [PARTS]
    return tl.load(values_ptr + row * parts + index, mask=index < parts, other=other)


@triton.jit
def row_max(part_max_ptr, row, parts, PARTS: tl.constexpr):
    """Largest logit; +inf where the row holds NaN or +inf."""
    return tl.max(load_parts(part_max_ptr, row, parts, -float("inf"), PARTS))


@triton.jit
def is_finite(x):
    return (x > -float("inf")) & (x < float("inf"))


@triton.jit
def scaled(x, largest, inverse_temperature):
    """Logarithm of the weight relative to the largest logit's."""
    return (x.to(tl.float64) - largest.to(tl.float64)) * inverse_temperature


@triton.jit
def ordered_key(x):
    """int32 that orders as the float32 does."""
    bits = x.to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def value_of_key(key):
    return (key ^ ((key >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)


@triton.jit
def fixed_point(weight, UNIT: tl.constexpr):
    """A weight in [0, 1] in units of 1 / UNIT: sums of integers are the same in any order."""
    return (weight * UNIT + 0.5).to(tl.int64)


@triton.jit
def load_cut(state_ptr, row, CUT: tl.constexpr):
    """Value of the last token kept and how many of its ties are, see _triton_cut.py; without a cut -inf and none."""
    value = -float("inf")
    ties = tl.full((), 0, tl.int64)
    if CUT:
        value = value_of_key(tl.load(state_ptr + row * 4).to(tl.int32))
        ties = tl.load(state_ptr + row * 4 + 1)
    return value, ties


@triton.jit
def ties_of_parts(part_ties_ptr, row, ties, parts, PARTS: tl.constexpr):
    """How many ties of the cut each part keeps: lower indices come first."""
    held = load_parts(part_ties_ptr, row, parts, 0, PARTS).to(tl.int64)  # [PARTS]
    before = tl.cumsum(held) - held  # [PARTS]
    return tl.minimum(tl.maximum(ties - before, 0), held)


@triton.jit
def pick(values, wanted, SIZE: tl.constexpr):
    """values[wanted] of a vector in registers."""
    return tl.sum(tl.where(tl.arange(0, SIZE) == wanted, values, 0))


@triton.jit
def is_kept(x, value, ties):
    """Tokens of one part above the cut, and the first ``ties`` of those at it."""
    tie = x == value
    return (x > value) | (tie & (tl.cumsum(tie.to(tl.int32)) <= ties))


@triton.jit
def log_total(part_max_ptr, part_sum_ptr, row, largest, parts, PARTS: tl.constexpr):
    """log of the sum of exp(logit - largest)."""
    maxima = load_parts(part_max_ptr, row, parts, -float("inf"), PARTS)  # [PARTS]
    sums = load_parts(part_sum_ptr, row, parts, 0.0, PARTS)  # [PARTS]
    return tl.log(tl.sum(sums * tl.exp(scaled(maxima, largest, 1.0))))
