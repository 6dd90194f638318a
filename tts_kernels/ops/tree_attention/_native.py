from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tts_kernels.plan import Plan


def tree_attention(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, scale: float, softcap: float, window: int
) -> tuple[Tensor, Tensor]:
    rows, heads, head_dim = q.shape
    out = q.new_empty(q.shape)
    lse = q.new_empty((rows, heads), dtype=torch.float32)
    part_out = lse.new_empty((plan.num_slots, heads, head_dim))
    part_lse = lse.new_empty((plan.num_slots, heads))
    torch.ops.tts_kernels.tree_attention(
        q, k_pages, v_pages, plan.units, plan.runs, plan.pages, plan.row_pos, plan.join_ptr, plan.join_slots,
        part_out, part_lse, out, lse, scale, softcap, window,
    )  # fmt: skip
    return out, lse
