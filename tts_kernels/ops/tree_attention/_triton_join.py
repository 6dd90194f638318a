"""How programs of the Triton kernel write rows, or leave parts of them and join what others left."""

import triton
import triton.language as tl

from tts_kernels.ops.tree_attention._triton_keys import LN2, LOG2E, _finite


@triton.jit
def _add_sink(lse, sinks_ptr, head, live):
    """The factor of the output and the lse when the head's sink, a score without a value, is counted."""
    sink = tl.load(sinks_ptr + head, mask=live, other=0.0)
    shift = _finite(tl.maximum(lse, sink))
    with_sink = shift + tl.log2(tl.exp2((lse - shift) * LOG2E) + tl.exp2((sink - shift) * LOG2E)) * LN2
    return tl.exp2((lse - _finite(with_sink)) * LOG2E), with_sink


@triton.jit
def _write_rows(out, lse, dim, result, row, head, live, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Write the columns ``dim`` of the rows that are ``live``."""
    out_ptr, lse_ptr, _ = result
    at = row.to(tl.int64) * (tl.num_programs(1) * GROUP) + head
    mask = live[:, None] & (dim[None, :] < HEAD_DIM)
    tl.store(out_ptr + at[:, None] * HEAD_DIM + dim[None, :], out, mask=mask)
    tl.store(lse_ptr + at, lse, mask=live)


@triton.jit
def _for_heads(flag, lane, GROUP: tl.constexpr):
    """What the first query head of each row found, for all heads of the row."""
    if GROUP == 1:
        return flag
    return tl.gather(flag.to(tl.int32), lane - lane % GROUP, 0) != 0


@triton.jit
def _hand_in(out, lse, slot, row, head, live, parts, count, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr):
    """Leave the rows' partial results to whoever comes last; returns the rows for which that is this program.

    A row's counter is the number of its parts that are in. Where all others are, nothing need be stored.
    """
    part_out_ptr, part_lse_ptr, counters_ptr = parts
    heads = tl.num_programs(1) * GROUP
    lane = tl.arange(0, out.shape[0])
    dim = tl.arange(0, out.shape[1])
    counter_ptr = counters_ptr + row.to(tl.int64) * tl.num_programs(1) + tl.program_id(1)
    once = live & (lane % GROUP == 0)
    others = tl.atomic_add(counter_ptr, 0, mask=once, sem="acquire", scope="gpu")
    complete = _for_heads(once & (others == count - 1), lane, GROUP)
    store = live & ~complete
    at = slot.to(tl.int64) * heads + head
    mask = store[:, None] & (dim[None, :] < HEAD_DIM)
    tl.store(part_out_ptr + at[:, None] * HEAD_DIM + dim[None, :], out, mask=mask)
    tl.store(part_lse_ptr + at, lse, mask=store)
    # The atomic of one thread publishes the stores of all threads before the barrier; the second barrier lets all
    # threads see what the acquiring ones do.
    tl.debug_barrier()
    others = tl.atomic_add(counter_ptr, 1, mask=store & once, sem="acq_rel", scope="gpu")
    last = _for_heads(store & once & (others == count - 1), lane, GROUP)
    tl.debug_barrier()
    mine = complete | last
    tl.store(counter_ptr, 0, mask=mine & once)
    return mine


@triton.jit
def _join_rows(
    out, lse, first_dim, joins, slot, row, head, mine, parts, result, GROUP: tl.constexpr, HEAD_DIM: tl.constexpr
):
    """Join some columns of the parts of the rows in the order of their slots, this program's own from registers.

    Own part and others have the same rounding and the multiply-adds are spelled out, so that the bits do not depend on
    which program came last.
    """
    part_out_ptr, part_lse_ptr, _ = parts
    slots_ptr, begin, count = joins
    heads = tl.num_programs(1) * GROUP
    dim = first_dim + tl.arange(0, out.shape[1])
    acc = tl.zeros(out.shape, tl.float32)
    top = tl.full([out.shape[0]], float("-inf"), tl.float32)
    total = tl.zeros([out.shape[0]], tl.float32)
    count = tl.where(mine, count, 0)
    slots_ptr += begin.to(tl.int64)
    part_slot = tl.load(slots_ptr, mask=count > 0, other=0)
    for part in tl.range(0, tl.max(count, 0), num_stages=1):
        here = part < count
        own = here & (part_slot == slot)
        other = here & ~own
        at = part_slot.to(tl.int64) * heads + head
        mask = other[:, None] & (dim[None, :] < HEAD_DIM)
        # Past the L1, which may hold lines from before the parts were written.
        part_lse = tl.load(part_lse_ptr + at, mask=other, other=float("-inf"), cache_modifier=".cg")
        part_out = tl.load(
            part_out_ptr + at[:, None] * HEAD_DIM + dim[None, :], mask=mask, other=0.0, cache_modifier=".cg"
        )
        part_lse = tl.where(own, lse, part_lse)
        part_out = tl.where(own[:, None], out, part_out).to(tl.float32)
        new_top = tl.maximum(top, part_lse)
        shift = _finite(new_top)
        fade = tl.exp2((top - shift) * LOG2E)
        weight = tl.exp2((part_lse - shift) * LOG2E)
        total = tl.fma(total, fade, weight)
        acc = tl.fma(part_out, tl.broadcast_to(weight[:, None], out.shape), acc * fade[:, None])
        top = new_top
        part_slot = tl.load(slots_ptr + part + 1, mask=part + 1 < count, other=0)
    empty = total == 0
    total = tl.where(empty, 1.0, total)
    factor = 1.0 / total
    joined_lse = tl.where(empty, float("-inf"), top + tl.log2(total) * LN2)
    if result[2] is not None:
        share, joined_lse = _add_sink(joined_lse, result[2], head, mine)
        factor *= share
    joined = (acc * factor[:, None]).to(out.dtype)
    _write_rows(joined, joined_lse, dim, result, row, head, mine, GROUP, HEAD_DIM)


@triton.jit
def _join_columns(
    out, first_dim, lse, joins, slot, row, head, mine, parts, result,
    GROUP: tl.constexpr, HEAD_DIM: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Join a piece of the columns at a time: own part, sum and other part of a large tile pass the registers."""
    if PIECES == 1:
        _join_rows(out, lse, first_dim, joins, slot, row, head, mine, parts, result, GROUP, HEAD_DIM)
    else:
        HALF: tl.constexpr = out.shape[1] // 2
        left, right = tl.split(tl.permute(tl.reshape(out, [out.shape[0], 2, HALF]), [0, 2, 1]))
        _join_columns(left, first_dim, lse, joins, slot, row, head, mine, parts, result, GROUP, HEAD_DIM, PIECES // 2)
        _join_columns(
            right, first_dim + HALF, lse, joins, slot, row, head, mine, parts, result, GROUP, HEAD_DIM, PIECES // 2
        )
