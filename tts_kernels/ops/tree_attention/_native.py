from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tts_kernels import _ext
from tts_kernels._checks import FLOATS, expect, expect_dtype

if TYPE_CHECKING:
    from tts_kernels.ops.tree_attention._options import Options
    from tts_kernels.plan import Plan

OP = "tree_attention"


def tree_attention(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, options: Options) -> tuple[Tensor, Tensor]:
    out = q.new_empty(q.shape)
    lse = q.new_empty(q.shape[:2], dtype=torch.float32)
    run = _on_cuda if _ext.runs_cuda_kernels(q.device) else _on_cpu
    run(q, k_pages, v_pages, plan, options, out, lse)
    return out, lse


def _on_cpu(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, options: Options, out: Tensor, lse: Tensor
) -> None:
    part_out = lse.new_empty((plan.num_slots, *q.shape[1:]))
    part_lse = lse.new_empty((plan.num_slots, q.shape[1]))
    _call(q, k_pages, v_pages, plan, options, (part_out, part_lse, None), out, lse)
    if options.sinks is not None:
        # A sink only takes its share of a soft-max that is otherwise done.
        share = 1 / (1 + torch.exp(options.sinks - lse))
        out *= torch.where(lse == -torch.inf, 0, share)[..., None]
        lse.copy_(torch.logaddexp(lse, options.sinks))


def _on_cuda(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, options: Options, out: Tensor, lse: Tensor
) -> None:
    expect_dtype(OP, *FLOATS, q=q)
    group, tallest = q.shape[1] // k_pages.shape[1], 128 if q.element_size() == 2 and q.shape[2] <= 128 else 64
    expect(OP, group <= tallest, "query heads per kv head", f"at most {tallest} for the CUDA kernel", group)
    tokens = k_pages.shape[0] * k_pages.shape[1] * k_pages.shape[2]
    expect(OP, tokens < 2**31, "tokens of k_pages, all kv heads,", "below 2**31 for the CUDA kernel", tokens)
    _call(q, k_pages, v_pages, plan, options, plan.workspace(q, k_pages.shape[1]), out, lse)


def _call(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    plan: Plan,
    options: Options,
    parts: tuple[Tensor, Tensor, Tensor | None],
    out: Tensor,
    lse: Tensor,
) -> None:
    torch.ops.tts_kernels.tree_attention(
        q, k_pages, v_pages, options.k_scales, options.v_scales, options.sinks,
        plan.units, plan.runs, plan.unit_reads, plan.reads, plan.pages, plan.row_pos, plan.join_ptr, plan.join_slots,
        *parts, out, lse, options.scale, options.softcap, options.window, plan.max_unit_rows, plan.invariant,
    )  # fmt: skip
