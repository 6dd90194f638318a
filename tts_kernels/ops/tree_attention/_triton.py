"""Launches the Triton kernel: one launch for a whole forest."""

from __future__ import annotations

from math import e, log2
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from tts_kernels._checks import FLOATS, expect_dtype
from tts_kernels.ops.tree_attention._triton_kernel import _tree_attention_kernel
from tts_kernels.ops.tree_attention._triton_tiles import tallest, target

if TYPE_CHECKING:
    from tts_kernels.ops.tree_attention._options import Options
    from tts_kernels.plan import Plan

LOG2E = log2(e)


def tree_attention(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, options: Options) -> tuple[Tensor, Tensor]:
    expect_dtype("tree_attention", *FLOATS, q=q)
    out, lse = q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)
    if len(plan.units):
        with torch.cuda.device_of(q):
            _launch(q, k_pages, v_pages, plan, options, out, lse)
    return out, lse


def _launch(
    q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, options: Options, out: Tensor, lse: Tensor
) -> None:
    if k_pages.dtype == torch.float8_e4m3fn and 0 < target() < 89:
        raise TypeError(f"tree_attention: k_pages must be int8 or 16-bit on sm_{target()}, got float8_e4m3fn")
    constants, kv_heads = _constants(q, k_pages, plan, options), k_pages.shape[1]
    tiles = cdiv(plan.max_unit_rows, constants["WIDE"] // constants["GROUP"])
    # The kernel takes scores in base 2.
    scale, softcap = options.scale * LOG2E, 0.0
    if options.softcap > 0:
        scale, softcap = options.scale / options.softcap, options.softcap * LOG2E
    _tree_attention_kernel[(len(plan.units) * tiles, kv_heads)](
        q, k_pages, v_pages, options.k_scales, options.v_scales, options.sinks,
        plan.units, plan.unit_reads, plan.reads, plan.pages, plan.row_pos, plan.join_ptr, plan.join_slots,
        *plan.workspace(q, kv_heads), out, lse, q.stride(0), q.stride(1), tiles, scale, softcap, options.window,
        **constants,
    )  # fmt: skip


def _constants(q: Tensor, k_pages: Tensor, plan: Plan, options: Options) -> dict[str, Any]:
    """What the kernel is compiled for, and how."""
    group = q.shape[1] // k_pages.shape[1]
    block_d = max(16, next_power_of_2(q.shape[2]))
    tiles = tallest(q.dtype, k_pages.dtype, block_d, target())
    if plan.invariant:
        # One shape of tile for all, so that a row's bits do not depend on how many rows share its unit.
        wide = min(tiles.wide, 64)
    else:
        # 16, 64 or more: a kernel of 32 rows would be one more to compile, and spills on sm_100.
        rows = next_power_of_2(plan.max_unit_rows * group)
        wide = min(tiles.wide, 16 if rows <= 16 else max(64, rows))
    wide = max(wide, next_power_of_2(group))
    return {
        "GROUP": group,
        "HEAD_DIM": q.shape[2],
        "BLOCK_D": block_d,
        "PAGE_SIZE": plan.page_size,
        "SOFTCAP": options.softcap > 0,
        "WINDOW": options.window > 0,
        "NARROW": wide if plan.invariant else 16,
        "WIDE": wide,
        "BLOCK_N": tiles.keys,
        "WIDE_N": tiles.wide_keys if wide > 64 else tiles.keys,
        "num_warps": 4 if wide == 16 and block_d <= 128 else tiles.warps,
        "num_stages": tiles.stages,
    }
