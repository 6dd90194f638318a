"""Kernels of sample_children for children in order: the Gumbel top-k of distinct draws, and temperature 0."""

import triton
import triton.language as tl

from tts_kernels.ops._double_argument import as_double
from tts_kernels.ops.sample_children._triton_row import (
    NO_TOKEN,
    is_finite,
    is_kept,
    load_cut,
    load_part,
    log_total,
    pick,
    row_max,
    scaled,
    ties_of_parts,
)


@triton.jit
def _gumbel(key, position, part, TILE: tl.constexpr):
    """Noise of a part's tokens, double: token t has word t % 4 of the counter (position, t / 4, 1, 0)."""
    fours = part * (TILE // 4) + tl.arange(0, TILE // 4)  # [TILE / 4]
    w0, w1, w2, w3 = tl.philox(key, position, fours, 1, 0)
    words = tl.reshape(tl.join(tl.join(w0, w2), tl.join(w1, w3)), (TILE,))
    uniform = (words.to(tl.float64) + 0.5) * (2.0**-32)  # [TILE]
    return -tl.log(-tl.log(uniform))


@triton.jit
def _best_kernel(
    logits_ptr,
    keys_ptr,
    positions_ptr,
    offsets_ptr,
    part_max_ptr,
    state_ptr,
    part_ties_ptr,
    best_score_ptr,
    best_token_ptr,
    vocab,
    stride_row,
    parts,
    total,
    inverse_temperature_bits,
    min_p_bits,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    CUT: tl.constexpr,
    NOISE: tl.constexpr,
    DISTINCT: tl.constexpr,
):
    """The best tokens of a part in order, as many as the row has children, -inf where it has no more."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    begin = tl.load(offsets_ptr + row).to(tl.int64)
    wanted = (tl.load(offsets_ptr + row + 1) - begin).to(tl.int32)
    largest = row_max(part_max_ptr, row, parts, PARTS)
    if (wanted == 0) | (largest == float("inf")):
        return
    tokens, x = load_part(logits_ptr, row, part, vocab, stride_row, TILE)
    kept = x > -float("inf")
    score = x.to(tl.float64)  # [TILE]
    if NOISE:
        log_weight = scaled(x, largest, as_double(inverse_temperature_bits))
        if CUT:
            value, ties = load_cut(state_ptr, row, CUT)
            kept_ties = ties_of_parts(part_ties_ptr, row, ties, parts, PARTS)
            kept &= is_kept(x, value, pick(kept_ties, part, PARTS))
        kept &= tl.exp(log_weight) >= as_double(min_p_bits)
        score = log_weight + _gumbel(tl.load(keys_ptr + row), tl.load(positions_ptr + row), part, TILE)
    if not DISTINCT:
        wanted = tl.minimum(wanted, 1)
    slot = part.to(tl.int64) * total + begin
    last_score, last_token = tl.full((), float("inf"), tl.float64), -1
    for place in range(tl.minimum(wanted, TILE)):
        left = kept & ((score < last_score) | ((score == last_score) & (tokens > last_token)))
        last_score = tl.max(tl.where(left, score, -float("inf")))
        last_token = tl.min(tl.where(left & (score == last_score), tokens, NO_TOKEN))
        tl.store(best_score_ptr + slot + place, last_score)
        tl.store(best_token_ptr + slot + place, last_token)


@triton.jit
def _merge_kernel(
    logits_ptr,
    offsets_ptr,
    part_max_ptr,
    part_sum_ptr,
    best_score_ptr,
    best_token_ptr,
    tokens_ptr,
    log_probs_ptr,
    stride_row,
    parts,
    total,
    TILE: tl.constexpr,
    PARTS: tl.constexpr,
    DISTINCT: tl.constexpr,
):
    """A row's children: the best of its parts' lists, which start again when all are used up.

    Unless they are to be distinct, every child is the first of all.
    """
    row = tl.program_id(0).to(tl.int64)
    begin = tl.load(offsets_ptr + row).to(tl.int64)
    width = (tl.load(offsets_ptr + row + 1) - begin).to(tl.int32)
    if width == 0:
        return
    largest = row_max(part_max_ptr, row, parts, PARTS)
    usable = is_finite(largest)
    log_sum = log_total(part_max_ptr, part_sum_ptr, row, largest, parts, PARTS)
    index = tl.arange(0, PARTS)  # [PARTS]
    lists = index.to(tl.int64) * total + begin  # [PARTS]
    heads = tl.zeros((PARTS,), tl.int32)
    listed = index < tl.where(usable, parts, 0)
    for place in range(width):
        left = listed & (heads < tl.minimum(width, TILE))
        score = tl.load(best_score_ptr + lists + heads, mask=left, other=-float("inf"))  # [PARTS]
        if tl.max(score) == -float("inf"):
            heads = tl.zeros((PARTS,), tl.int32)
            left = listed
            score = tl.load(best_score_ptr + lists + heads, mask=left, other=-float("inf"))
        best = tl.max(score)
        token = tl.load(best_token_ptr + lists + heads, mask=left, other=NO_TOKEN)  # [PARTS]
        chosen = tl.min(tl.where(score == best, token, NO_TOKEN))
        if DISTINCT:
            heads += ((score == best) & (token == chosen)).to(tl.int32)
        x = tl.load(logits_ptr + row * stride_row + chosen, mask=usable, other=0.0).to(tl.float32)
        log_prob = (scaled(x, largest, 1.0) - log_sum).to(tl.float32)
        tl.store(tokens_ptr + begin + place, tl.where(usable, chosen, -1).to(tl.int64))
        tl.store(log_probs_ptr + begin + place, tl.where(usable, log_prob, float("nan")))
