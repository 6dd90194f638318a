"""The Triton kernel: a program reads the keys of one unit for one kv head and joins the rows it completes.

A program's matrix tile has rows x query heads of the kv head on its M side, so that a key is loaded once for all of
them, and walks the unit's reads as one flat list of keys: pages of several runs share a tile of keys.
"""

import triton
import triton.language as tl

from tts_kernels.ops.tree_attention._triton_join import _add_sink, _hand_in, _join_columns, _write_rows
from tts_kernels.ops.tree_attention._triton_keys import _read_keys


@triton.jit
def _attend_tile(
    query, keys, lists, parts, joins, result, tile, numbers,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """One tile of rows of a unit over all its keys."""
    q_ptr, stride_row, stride_head = query
    first_row, rows, slot = tile
    lane = tl.arange(0, BLOCK_M)
    dim = tl.arange(0, BLOCK_D)
    row = first_row + lane // GROUP
    head = tl.program_id(1) * GROUP + lane % GROUP
    live = lane < rows * GROUP
    row_pos = tl.load(lists[2] + row.to(tl.int64), mask=live, other=-1)
    low = tl.min(tl.where(live, row_pos, 2**31 - 1), 0) - numbers[2]
    at = row.to(tl.int64)[:, None] * stride_row + head.to(tl.int64)[:, None] * stride_head + dim[None, :]
    q = tl.load(q_ptr + at, mask=live[:, None] & (dim[None, :] < HEAD_DIM), other=0.0)  # [BLOCK_M, BLOCK_D]
    acc, factor, lse = _read_keys(
        q, row, row_pos, low, keys, lists, tl.program_id(1), numbers,
        HEAD_DIM, PAGE_SIZE, SOFTCAP, WINDOW, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    begin = tl.load(joins[0] + row.to(tl.int64), mask=live, other=0)
    count = tl.load(joins[0] + row.to(tl.int64) + 1, mask=live, other=0) - begin
    direct = live & (count == 0)
    if result[2] is not None:
        share, full_lse = _add_sink(lse, result[2], head, live)
        factor = tl.where(direct, factor * share, factor)
        lse = tl.where(direct, full_lse, lse)
    out = (acc * factor[:, None]).to(q.dtype)
    _write_rows(out, lse, dim, result, row, head, direct, GROUP, HEAD_DIM)
    if slot >= 0:
        slots = slot + lane // GROUP
        mine = _hand_in(out, lse, slots, row, head, live & (count > 0), parts, count, GROUP, HEAD_DIM)
        entries = (joins[1], begin, count)
        PIECES: tl.constexpr = max(BLOCK_M * BLOCK_D // 8192, 1)
        _join_columns(out, 0, lse, entries, slots, row, head, mine, parts, result, GROUP, HEAD_DIM, PIECES)


@triton.jit
def _fit_tile(
    query, keys, lists, parts, joins, result, place, numbers,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
    BLOCK_M: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, WIDE_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """The smallest tile that holds the rows: few rows in a tall one waste registers and tensor cores."""
    if BLOCK_M >= WIDE:
        _attend_tile(
            query, keys, lists, parts, joins, result, place, numbers,
            GROUP, HEAD_DIM, PAGE_SIZE, SOFTCAP, WINDOW, WIDE, WIDE_N, BLOCK_D,
        )  # fmt: skip
    elif place[1] * GROUP <= BLOCK_M:
        _attend_tile(
            query, keys, lists, parts, joins, result, place, numbers,
            GROUP, HEAD_DIM, PAGE_SIZE, SOFTCAP, WINDOW, BLOCK_M, BLOCK_N, BLOCK_D,
        )  # fmt: skip
    else:
        _fit_tile(
            query, keys, lists, parts, joins, result, place, numbers,
            GROUP, HEAD_DIM, PAGE_SIZE, SOFTCAP, WINDOW, BLOCK_M * 4, WIDE, BLOCK_N, WIDE_N, BLOCK_D,
        )  # fmt: skip


# No variant of the kernel for one tile or window 1: a variant takes long to compile.
@triton.jit(do_not_specialize=["tiles", "window"])
def _tree_attention_kernel(
    q_ptr, k_ptr, v_ptr, k_scales_ptr, v_scales_ptr, sinks_ptr,
    units_ptr, unit_reads_ptr, reads_ptr, pages_ptr, row_pos_ptr, join_bounds_ptr, join_slots_ptr,
    part_out_ptr, part_lse_ptr, counters_ptr, out_ptr, lse_ptr,
    stride_row, stride_head, tiles, scale, softcap, window,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, SOFTCAP: tl.constexpr, WINDOW: tl.constexpr,
    NARROW: tl.constexpr, WIDE: tl.constexpr, BLOCK_N: tl.constexpr, WIDE_N: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    # Row tiles of a unit read the same keys, neighbouring units often some of the same: they are neighbours in the
    # grid, so that all but the first find them in the L2. KV heads share nothing.
    ROWS: tl.constexpr = WIDE // GROUP
    unit = (tl.program_id(0) // tiles).to(tl.int64)
    tile = tl.program_id(0) % tiles
    unit_ptr = units_ptr + unit * 5
    first_row = tl.load(unit_ptr) + tile * ROWS
    rows = tl.minimum(tl.load(unit_ptr + 1) - first_row, ROWS)
    # A unit without rows, or with fewer than others.
    if rows <= 0:
        return
    slot = tl.load(unit_ptr + 4)
    slot = tl.where(slot < 0, slot, slot + tile * ROWS)
    read_begin = tl.load(unit_reads_ptr + unit * 2)
    keys_end = (tl.load(unit_reads_ptr + unit * 2 + 1) - read_begin) * PAGE_SIZE
    query = (q_ptr, stride_row, stride_head)
    keys = (k_ptr, v_ptr, k_scales_ptr, v_scales_ptr)
    lists = (reads_ptr + read_begin.to(tl.int64) * 4, pages_ptr, row_pos_ptr, keys_end)
    parts = (part_out_ptr, part_lse_ptr, counters_ptr)
    joins = (join_bounds_ptr, join_slots_ptr)
    result = (out_ptr, lse_ptr, sinks_ptr)
    place = (first_row, rows, slot)
    numbers = (scale, softcap, window)
    _fit_tile(
        query, keys, lists, parts, joins, result, place, numbers,
        GROUP, HEAD_DIM, PAGE_SIZE, SOFTCAP, WINDOW, NARROW, WIDE, BLOCK_N, WIDE_N, BLOCK_D,
    )  # fmt: skip
