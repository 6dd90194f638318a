"""The Triton kernel's loop over the keys of a unit."""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _tanh(x):
    # Near 0 the exponential form cancels; the continued fraction is exact to float32 there.
    square = x * x
    near = x * (945.0 + square * (105.0 + square)) / (945.0 + square * (420.0 + square * 15.0))
    return tl.where(tl.abs(x) < 1.0, near, 1.0 - 2.0 / (1.0 + tl.exp2(x * (2.0 * LOG2E))))


@triton.jit
def _finite(x):
    """A maximum to subtract: where nothing is seen, -inf - -inf would be NaN."""
    return tl.where(x == float("-inf"), 0.0, x)


@triton.jit
def _read_of_key(reads_ptr, key, end, PAGE_SIZE: tl.constexpr):
    """The read that holds key number ``key`` of the unit; no row reads the keys from ``end`` on."""
    read_ptr = reads_ptr + (key // PAGE_SIZE).to(tl.int64) * 4
    here = key < end
    page = tl.load(read_ptr, mask=here, other=0)
    pos = tl.load(read_ptr + 1, mask=here, other=0) + key % PAGE_SIZE
    row_begin = tl.load(read_ptr + 2, mask=here, other=0)
    row_end = tl.load(read_ptr + 3, mask=here, other=0)
    return page, pos, row_begin, row_end


@triton.jit
def _page_of_key(lists, low, key, PAGE_SIZE: tl.constexpr, WINDOW: tl.constexpr):
    """The id of the page of key number ``key``, -1 where no row of its read sees it."""
    reads_ptr, pages_ptr, row_pos_ptr, end = lists
    page, pos, _, row_end = _read_of_key(reads_ptr, key, end, PAGE_SIZE)
    here = row_end > 0
    page_id = tl.load(pages_ptr + page.to(tl.int64), mask=here, other=0)
    here &= pos <= tl.load(row_pos_ptr + row_end.to(tl.int64) - 1, mask=here, other=-1)
    if WINDOW:
        here &= pos > low
    return tl.where(here, page_id, -1)


@triton.jit
def _read_keys(
    q, row, row_pos, low, keys, lists, head, numbers,
    HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Online soft-max of the tile over the unit's keys: its output, the factor that normalises it, natural-log lse."""
    k_ptr, v_ptr, k_scales_ptr, v_scales_ptr = keys
    scale, softcap, window = numbers
    kv_heads = tl.num_programs(1)
    BLOCK_D: tl.constexpr = q.shape[1]
    col = tl.arange(0, BLOCK_N)
    dim = tl.arange(0, BLOCK_D)
    acc = tl.zeros([BLOCK_M, BLOCK_D], tl.float32)
    top = tl.full([BLOCK_M], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_M], tl.float32)
    # A tile ahead: K and V loads that wait for a load of their own iteration would get fewer pipeline stages.
    page_id = _page_of_key(lists, low, col, PAGE_SIZE, WINDOW)
    for start in range(0, lists[3], BLOCK_N):
        here = page_id >= 0
        slab = page_id.to(tl.int64) * kv_heads + head
        at = (slab * PAGE_SIZE + (start + col) % PAGE_SIZE)[:, None] * HEAD_DIM + dim[None, :]
        there = here[:, None]
        if HEAD_DIM < BLOCK_D:
            there &= dim[None, :] < HEAD_DIM
        k = tl.load(k_ptr + at, mask=there, other=0.0).to(q.dtype)  # [BLOCK_N, BLOCK_D]
        score = tl.dot(q, tl.trans(k), input_precision="ieee") * scale  # [BLOCK_M, BLOCK_N]
        if k_scales_ptr is not None:
            score *= tl.load(k_scales_ptr + slab, mask=here, other=0.0)[None, :]
        if SOFTCAP:
            score = softcap * _tanh(score)
        _, pos, row_begin, row_end = _read_of_key(lists[0], start + col, lists[3], PAGE_SIZE)
        seen = (row[:, None] >= row_begin[None, :]) & (row[:, None] < row_end[None, :])
        seen &= pos[None, :] <= row_pos[:, None]
        if WINDOW:
            seen &= pos[None, :] > row_pos[:, None] - window
        score = tl.where(seen, score, float("-inf"))
        new_top = tl.maximum(top, tl.max(score, 1))
        shift = _finite(new_top)
        fade = tl.exp2(top - shift)
        prob = tl.exp2(score - shift[:, None])
        total = total * fade + tl.sum(prob, 1)
        if v_scales_ptr is not None:
            prob *= tl.load(v_scales_ptr + slab, mask=here, other=0.0)[None, :]
        v = tl.load(v_ptr + at, mask=there, other=0.0).to(q.dtype)  # [BLOCK_N, BLOCK_D]
        acc = tl.dot(prob.to(q.dtype), v, acc * fade[:, None], input_precision="ieee")
        top = new_top
        page_id = _page_of_key(lists, low, start + BLOCK_N + col, PAGE_SIZE, WINDOW)
    empty = total == 0
    safe_total = tl.where(empty, 1.0, total)
    lse = tl.where(empty, float("-inf"), tl.fma(top, LN2, tl.log2(safe_total) * LN2))
    return acc, 1.0 / safe_total, lse
