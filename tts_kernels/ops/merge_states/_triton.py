"""A program joins a tile of rows: first their log-sum-exp over the parts, then the weighted sum in one read."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

LOG2E = tl.constexpr(1.4426950408889634)
LN2 = tl.constexpr(0.6931471805599453)


@triton.jit
def _merge_states_kernel(
    outs_ptr, lses_ptr, out_ptr, lse_ptr, num_parts, num_rows, HEAD_DIM: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    BLOCK_D: tl.constexpr = triton.next_power_of_2(HEAD_DIM)
    dim = tl.arange(0, BLOCK_D)  # [BLOCK_D]
    live = row < num_rows
    top = tl.full([BLOCK_N], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK_N], tl.float32)
    at = row
    for _ in range(num_parts):
        lse = tl.load(lses_ptr + at, mask=live, other=float("-inf"))
        new_top = tl.maximum(top, lse)
        # Where no part has seen a key yet, -inf - -inf would be NaN.
        shift = tl.where(new_top == float("-inf"), 0.0, new_top)
        total = total * tl.exp2((top - shift) * LOG2E) + tl.exp2((lse - shift) * LOG2E)
        top = new_top
        at += num_rows
    lse = tl.where(total == 0, float("-inf"), top + tl.log2(total) * LN2)
    tl.store(lse_ptr + row, lse, mask=live)
    out = tl.zeros([BLOCK_N, BLOCK_D], tl.float32)
    at = row
    for _ in range(num_parts):
        part_lse = tl.load(lses_ptr + at, mask=live, other=float("-inf"))
        seen = part_lse > float("-inf")
        here = seen[:, None]
        if HEAD_DIM < BLOCK_D:
            here &= dim[None, :] < HEAD_DIM
        part_out = tl.load(outs_ptr + at[:, None] * HEAD_DIM + dim[None, :], mask=here, other=0.0)  # [BLOCK_N, BLOCK_D]
        weight = tl.where(seen, tl.exp2((part_lse - lse) * LOG2E), 0.0)
        out += weight[:, None] * part_out.to(tl.float32)
        at += num_rows
    there = live[:, None]
    if HEAD_DIM < BLOCK_D:
        there &= dim[None, :] < HEAD_DIM
    tl.store(out_ptr + row[:, None] * HEAD_DIM + dim[None, :], out, mask=there)


def merge_states(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    out = outs.new_empty(outs.shape[1:])
    lse = lses.new_empty(lses.shape[1:], dtype=torch.float32)
    parts, head_dim = outs.shape[0], outs.shape[-1]
    if lse.numel():
        block_d = triton.next_power_of_2(max(1, head_dim))
        block_n = max(1, min(2048 // block_d, triton.next_power_of_2(lse.numel())))
        _merge_states_kernel[(triton.cdiv(lse.numel(), block_n),)](
            outs.contiguous(), lses.contiguous(), out, lse, parts, lse.numel(), HEAD_DIM=head_dim, BLOCK_N=block_n
        )
    return out, lse
