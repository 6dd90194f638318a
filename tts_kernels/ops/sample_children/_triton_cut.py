"""top-k and top-p as a cut of the descending order: a radix walk over the bits of the logits, exact for ties.

One launch per 11 bits. Every program adds its part to the row's bins, the last one to finish (a counter, nobody waits)
walks them from the top and keeps the bin where the cut falls. Bins are integers, so the order of the additions does not
matter: a count for top-k, the weight in fixed point for top-p, off by at most ``vocab / unit`` (2**-26 at a vocabulary
of 2**18, typically 2**-36) of the largest weight. Weights are double before that: equal masses must tie exactly.

State of a row, int64 [4]: the bits of the cut found so far and, after the last launch, its whole key; what remains
to be reached and then the number of ties kept; ties dropped; the counter.
"""

import triton
import triton.language as tl

from tts_kernels.ops._double_argument import as_double
from tts_kernels.ops.sample_children._triton_row import (
    fixed_point,
    is_finite,
    load_part,
    ordered_key,
    row_max,
    scaled,
    value_of_key,
)

BINS = tl.constexpr(2048)


@triton.jit
def _digit(key, prefix, LEVEL: tl.constexpr):
    """Bin of a key at a level, and whether the bits before are those of the cut."""
    if LEVEL == 0:
        bin_of_key = (key >> 21) + 1024
        inside = key == key
    elif LEVEL == 1:
        bin_of_key = (key >> 10) & 2047
        inside = (key >> 21) == prefix
    else:
        bin_of_key = key & 1023
        inside = (key >> 10) == prefix
    return bin_of_key, inside


@triton.jit
def _key_after(prefix, chosen, LEVEL: tl.constexpr, LAST: tl.constexpr):
    """Bits of the cut with those of this level. Bits that a 16-bit logit lacks are zeros, in a negative's key ones."""
    if LEVEL == 0:
        return chosen - 1024
    if LEVEL == 2:
        return (prefix << 10) | chosen
    key = (prefix << 11) | chosen
    if LAST:
        key = (key << 10) | ((key >> 31) & 1023)
    return key


@triton.jit
def _cut_kernel(
    logits_ptr,
    offsets_ptr,
    part_max_ptr,
    bins_ptr,
    state_ptr,
    vocab,
    stride_row,
    parts,
    top_k,
    top_p_bits,
    inverse_temperature_bits,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    UNIT: tl.constexpr,
    LEVEL: tl.constexpr,
    LAST: tl.constexpr,
    BY_COUNT: tl.constexpr,
    AFTER_COUNT: tl.constexpr,
):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    largest = row_max(part_max_ptr, row, parts, PARTS)
    if (tl.load(offsets_ptr + row) == tl.load(offsets_ptr + row + 1)) | (largest == -float("inf")):
        return
    if largest == float("inf"):
        return
    inverse_temperature = as_double(inverse_temperature_bits)
    state_ptr += row * 4
    bins_ptr += row * BINS
    index = tl.arange(0, BINS)  # [BINS]
    prefix = tl.load(state_ptr).to(tl.int32)
    _, x = load_part(logits_ptr, row, part, vocab, stride_row, TILE)
    key = ordered_key(x)
    bin_of_key, inside = _digit(key, prefix, LEVEL)
    inside &= is_finite(x)
    if LEVEL == 0 and AFTER_COUNT:
        inside &= key >= prefix
    # Past the first level few parts hold anything: those that do not spare the weights.
    if tl.max(inside.to(tl.int32)) > 0:
        if BY_COUNT:
            counts = tl.histogram(bin_of_key, BINS, mask=inside).to(tl.int64)  # [BINS]
            tl.atomic_add(bins_ptr + index, counts, mask=counts > 0, sem="relaxed")
        else:
            amount = fixed_point(tl.exp(scaled(x, largest, inverse_temperature)), UNIT)  # [TILE]
            tl.atomic_add(bins_ptr + bin_of_key, amount, mask=inside & (amount > 0), sem="relaxed")
    # All additions of the program come before its ticket.
    tl.debug_barrier()
    ticket = tl.atomic_add(state_ptr + 3, 1)
    if (ticket + 1) % parts != 0:
        return
    held = tl.load(bins_ptr + index)  # [BINS]
    reached = tl.cumsum(held, reverse=True)  # [BINS]
    need, total = tl.load(state_ptr + 1), tl.sum(held)
    if LEVEL == 0:
        if BY_COUNT:
            need = top_k.to(tl.int64)
        else:
            if AFTER_COUNT:
                each = fixed_point(tl.exp(scaled(value_of_key(prefix), largest, inverse_temperature)), UNIT)
                total -= tl.load(state_ptr + 2) * each
            need = tl.maximum(tl.ceil(total.to(tl.float64) * as_double(top_p_bits)).to(tl.int64), 1)
    need = tl.minimum(need, total)
    chosen = tl.max(tl.where(reached >= need, index, 0))
    here = tl.sum(tl.where(index == chosen, held, 0))
    need -= tl.sum(tl.where(index == chosen, reached, 0)) - here
    key_of_cut = _key_after(prefix, chosen, LEVEL, LAST)
    if LAST:
        if BY_COUNT:
            tl.store(state_ptr + 2, here - need)
        else:
            each = fixed_point(tl.exp(scaled(value_of_key(key_of_cut), largest, inverse_temperature)), UNIT)
            need = (need + each - 1) // tl.maximum(each, 1)
    tl.store(state_ptr, key_of_cut.to(tl.int64))
    tl.store(state_ptr + 1, need)
    tl.store(bins_ptr + index, tl.zeros_like(held))
