"""Attention of tree-search rows over paged KV of which every token is stored once."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Literal, overload

import torch
from torch import Tensor

from tts_kernels._checks import REFERENCE_FLOATS, Dims, expect, expect_contiguous, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch
from tts_kernels.ops.tree_attention._options import Options

if TYPE_CHECKING:
    from tts_kernels.plan import Plan

OP = "tree_attention"
STORED = (torch.int8, torch.float8_e4m3fn)


@overload
def tree_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    plan: Plan,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    window: int = 0,
    sinks: Tensor | None = None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    return_lse: Literal[False] = False,
    backend: Backend | None = None,
) -> Tensor: ...
@overload
def tree_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    plan: Plan,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    window: int = 0,
    sinks: Tensor | None = None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    return_lse: Literal[True],
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]: ...
def tree_attention(
    q: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    plan: Plan,
    *,
    scale: float | None = None,
    softcap: float = 0.0,
    window: int = 0,
    sinks: Tensor | None = None,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    return_lse: bool = False,
    backend: Backend | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Each row attends to the path of its leaf, as the plan of the call lays it out.

    q: [N, Hq, D] float32, bfloat16 or float16, D 1 to 256, any strides (copied if D is not contiguous).
    k_pages, v_pages: [pages, Hkv, page_size, D] of q's dtype, contiguous; query head h reads kv head h // (Hq // Hkv).
    Or int8 or float8_e4m3fn with k_scales, v_scales [pages, Hkv] float32, contiguous: a value is what is stored times
    the scale of its page and head.
    plan: who reads which pages; its arrays are trusted. A row sees the keys of its runs at path positions
    (row_pos - window, row_pos], from 0 when window is 0. Tokens behind the last that a run's rows see are never read:
    they, and pages of no run, may hold anything. A value that is not finite may spoil every row of the units that read
    it.
    Scores are q.k * scale (default D**-0.5), then softcap * tanh(score / softcap) when softcap > 0.
    sinks: [Hq] float32: one more score per head, without a value.
    Returns out [N, Hq, D] in q.dtype; with return_lse also lse [N, Hq] float32, the natural log of the sum of the
    exponentials of the scores. A row that sees no key gives zeros and its sinks, or -inf. Sums are float32 whatever the
    dtype. Partial results are kept with the plan: calls with one plan must not run at the same time.
    Raises ValueError or TypeError on wrong shapes, dtypes, devices or numbers.
    """
    _check(q, k_pages, v_pages, plan)
    _check_sinks_and_scales(q, k_pages, sinks, k_scales, v_scales)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    expect(OP, isfinite(scale) and scale >= 0, "scale", "finite and >= 0", scale)
    expect(OP, isfinite(softcap) and softcap >= 0, "softcap", "finite and >= 0", softcap)
    expect(OP, isinstance(window, int) and window >= 0, "window", "an int >= 0", window)
    q = q if q.stride(-1) == 1 else q.contiguous()
    options = Options(scale, softcap, window, sinks, k_scales, v_scales)
    out, lse = dispatch(OP, backend, q.device)(q, k_pages, v_pages, plan, options)
    return (out, lse) if return_lse else out


def _check(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan) -> None:
    dims = Dims(OP)
    dims.shape(q, "q", "N Hq D")
    dims.shape(k_pages, "k_pages", "pages Hkv page_size D")
    dims.shape(v_pages, "v_pages", "pages Hkv page_size D")
    expect_dtype(OP, *REFERENCE_FLOATS, q=q)
    if k_pages.dtype in STORED:
        expect_same(OP, "dtype", k_pages=k_pages, v_pages=v_pages)
    else:
        expect_same(OP, "dtype", q=q, k_pages=k_pages, v_pages=v_pages)
    expect_same(OP, "device", q=q, k_pages=k_pages, v_pages=v_pages, plan=plan.units)
    expect_contiguous(OP, k_pages=k_pages, v_pages=v_pages)
    expect(OP, 1 <= dims["D"] <= 256, "head_dim", "1 to 256", dims["D"])
    heads, kv_heads = dims["Hq"], dims["Hkv"]
    expect(OP, kv_heads > 0 and heads % kv_heads == 0, "query heads", f"a multiple of {kv_heads} kv heads", heads)
    size, rows = dims["page_size"], dims["N"]
    expect(OP, size == plan.page_size, "page_size of k_pages", f"{plan.page_size} as in plan", size)
    expect(OP, rows == len(plan.row_pos), "rows of q", f"{len(plan.row_pos)} as in plan", rows)


def _check_sinks_and_scales(
    q: Tensor, k_pages: Tensor, sinks: Tensor | None, k_scales: Tensor | None, v_scales: Tensor | None
) -> None:
    dims = Dims(OP)
    dims.shape(q, "q", "N Hq D")
    dims.shape(k_pages, "k_pages", "pages Hkv page_size D")
    for name, tensor in (("k_scales", k_scales), ("v_scales", v_scales)):
        if (tensor is None) == (k_pages.dtype in STORED):
            got = "none" if tensor is None else "some"
            raise TypeError(f"{OP}: {name} must come with int8 or float8_e4m3fn pages, got {got} for {k_pages.dtype}")
    shapes = {"sinks": "Hq", "k_scales": "pages Hkv", "v_scales": "pages Hkv"}
    for (name, spec), tensor in zip(shapes.items(), (sinks, k_scales, v_scales), strict=True):
        if tensor is not None:
            dims.shape(tensor, name, spec)
            expect_dtype(OP, torch.float32, **{name: tensor})
            expect_same(OP, "device", **{"q": q, name: tensor})
            expect_contiguous(OP, **{name: tensor})
