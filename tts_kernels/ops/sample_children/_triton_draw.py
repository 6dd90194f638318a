"""Kernels of sample_children for independent draws: weights of the parts, then one part per child."""

import triton
import triton.language as tl

from tts_kernels.ops._double_argument import as_double
from tts_kernels.ops.sample_children._triton_row import (
    NO_TOKEN,
    is_finite,
    is_kept,
    load_cut,
    load_part,
    load_parts,
    log_total,
    pick,
    row_max,
    scaled,
    ties_of_parts,
)


@triton.jit
def _stats_kernel(
    logits_ptr,
    offsets_ptr,
    part_max_ptr,
    part_sum_ptr,
    part_mass_ptr,
    vocab,
    stride_row,
    parts,
    inverse_temperature_bits,
    TILE: tl.constexpr,
    MASS: tl.constexpr,
):
    """Each part's largest logit (+inf for a NaN) and the weights relative to that, without and with temperature."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    if tl.load(offsets_ptr + row) == tl.load(offsets_ptr + row + 1):
        return
    _, x = load_part(logits_ptr, row, part, vocab, stride_row, TILE)
    largest = tl.max(tl.where(x == x, x, float("inf")))
    tl.store(part_max_ptr + row * parts + part, largest)
    # A part without a finite logit weighs nothing; with NaN or +inf nothing is drawn at all.
    base = tl.where(is_finite(largest), largest, 0.0)
    tl.store(part_sum_ptr + row * parts + part, tl.sum(tl.exp(scaled(x, base, 1.0))))
    if MASS:
        mass = tl.sum(tl.exp(scaled(x, base, as_double(inverse_temperature_bits))))
        tl.store(part_mass_ptr + row * parts + part, mass)


@triton.jit
def _kept_kernel(
    logits_ptr,
    offsets_ptr,
    part_max_ptr,
    state_ptr,
    part_mass_ptr,
    part_ties_ptr,
    vocab,
    stride_row,
    parts,
    inverse_temperature_bits,
    min_p_bits,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    CUT: tl.constexpr,
    MASS: tl.constexpr,
):
    """Each part's weight above the cut, relative to the row's largest, and its number of ties with the cut."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    largest = row_max(part_max_ptr, row, parts, PARTS)
    if tl.load(offsets_ptr + row) == tl.load(offsets_ptr + row + 1):
        return
    _, x = load_part(logits_ptr, row, part, vocab, stride_row, TILE)
    value, _ = load_cut(state_ptr, row, CUT)
    tl.store(part_ties_ptr + row * parts + part, tl.sum((x == value).to(tl.int32)))
    if MASS:
        weight = tl.exp(scaled(x, largest, as_double(inverse_temperature_bits)))
        weight = tl.where((x > value) & (weight >= as_double(min_p_bits)), weight, 0.0)
        tl.store(part_mass_ptr + row * parts + part, tl.sum(weight))


@triton.jit
def _first_past(cumulative, amounts, places, target):
    """First place with an amount where the sum passes the target; rounding may leave it short: then the last."""
    first = tl.min(tl.where((cumulative > target) & (amounts > 0.0), places, NO_TOKEN))
    last = tl.max(tl.where(amounts > 0.0, places, 0))
    return tl.minimum(first, last)


@triton.jit
def _draw_kernel(
    logits_ptr,
    keys_ptr,
    positions_ptr,
    offsets_ptr,
    owners_ptr,
    part_max_ptr,
    part_sum_ptr,
    part_mass_ptr,
    state_ptr,
    part_ties_ptr,
    tokens_ptr,
    log_probs_ptr,
    vocab,
    stride_row,
    parts,
    inverse_temperature_bits,
    min_p_bits,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    CUT: tl.constexpr,
    RESTRICTED: tl.constexpr,
):
    """One independent child: the part where its sum of weights passes the uniform, then the token inside it."""
    child = tl.program_id(0).to(tl.int64)
    row = tl.load(owners_ptr + child)
    largest = row_max(part_max_ptr, row, parts, PARTS)
    if not is_finite(largest):
        tl.store(tokens_ptr + child, -1)
        tl.store(log_probs_ptr + child, float("nan"))
        return
    inverse_temperature, min_p = as_double(inverse_temperature_bits), as_double(min_p_bits)
    mass = load_parts(part_mass_ptr, row, parts, 0.0, PARTS)  # [PARTS]
    value, ties = load_cut(state_ptr, row, CUT)
    kept_ties = tl.zeros((PARTS,), tl.int64)  # [PARTS]
    if CUT:
        kept_ties = ties_of_parts(part_ties_ptr, row, ties, parts, PARTS)
        each = tl.exp(scaled(value, largest, inverse_temperature))
        mass += kept_ties.to(tl.float64) * tl.where(each >= min_p, each, 0.0)
    if not RESTRICTED:
        maxima = load_parts(part_max_ptr, row, parts, -float("inf"), PARTS)  # [PARTS]
        mass *= tl.exp(scaled(maxima, largest, inverse_temperature))
    cumulative = tl.cumsum(mass)  # [PARTS]
    place = child - tl.load(offsets_ptr + row)
    word, _, _, _ = tl.philox(tl.load(keys_ptr + row), tl.load(positions_ptr + row), place.to(tl.int32), 0, 0)
    target = (word.to(tl.float64) + 0.5) * (2.0**-32) * tl.max(cumulative)
    index = tl.arange(0, PARTS)  # [PARTS]
    part = _first_past(cumulative, mass, index, target)
    before = tl.sum(tl.where(index < part, mass, 0.0))
    tokens, x = load_part(logits_ptr, row, part, vocab, stride_row, TILE)
    weight = tl.exp(scaled(x, largest, inverse_temperature))  # [TILE]
    if CUT:
        weight = tl.where(is_kept(x, value, pick(kept_ties, part, PARTS)), weight, 0.0)
    if RESTRICTED:
        weight = tl.where(weight >= min_p, weight, 0.0)
    token = _first_past(before + tl.cumsum(weight), weight, tokens, target)
    x_drawn = tl.sum(tl.where(tokens == token, x, 0.0))
    log_sum = log_total(part_max_ptr, part_sum_ptr, row, largest, parts, PARTS)
    tl.store(tokens_ptr + child, token.to(tl.int64))
    tl.store(log_probs_ptr + child, (scaled(x_drawn, largest, 1.0) - log_sum).to(tl.float32))
