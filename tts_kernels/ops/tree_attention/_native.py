from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tts_kernels.ops.tree_attention._options import Options
    from tts_kernels.plan import Plan


def tree_attention(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, options: Options) -> tuple[Tensor, Tensor]:
    if options.k_scales is not None:
        raise TypeError(f"tree_attention: the native kernel of this version has no {k_pages.dtype} pages")
    rows, heads, head_dim = q.shape
    out = q.new_empty(q.shape)
    lse = q.new_empty((rows, heads), dtype=torch.float32)
    part_out = lse.new_empty((plan.num_slots, heads, head_dim))
    part_lse = lse.new_empty((plan.num_slots, heads))
    torch.ops.tts_kernels.tree_attention(
        q, k_pages, v_pages, plan.units, plan.runs, plan.pages, plan.row_pos, plan.join_ptr, plan.join_slots,
        part_out, part_lse, out, lse, options.scale, options.softcap, options.window,
    )  # fmt: skip
    if options.sinks is not None:
        # A sink only takes its share of a soft-max that is otherwise done.
        share = 1 / (1 + torch.exp(options.sinks - lse))
        out *= torch.where(lse == -torch.inf, 0, share)[..., None]
        lse = torch.logaddexp(lse, options.sinks)
    return out, lse
