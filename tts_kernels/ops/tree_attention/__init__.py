"""Attention of tree-search rows over paged KV of which every token is stored once."""

from __future__ import annotations

from math import isfinite
from typing import TYPE_CHECKING, Literal, overload

from torch import Tensor

from tts_kernels._checks import REFERENCE_FLOATS, Dims, expect, expect_contiguous, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch

if TYPE_CHECKING:
    from tts_kernels.plan import Plan

OP = "tree_attention"


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
    return_lse: bool = False,
    backend: Backend | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Each row attends to the path of its leaf, as the plan of the call lays it out.

    q: [N, Hq, D] float32, bfloat16 or float16, D 1 to 256, any strides (copied if D is not contiguous).
    k_pages, v_pages: [pages, Hkv, page_size, D] of q's dtype, contiguous; query head h reads kv head h // (Hq // Hkv).
    plan: who reads which pages; its arrays are trusted. A row sees the keys of its runs at path positions
    (row_pos - window, row_pos], from 0 when window is 0. Tokens behind the last that a run's rows see are never read:
    they, and pages of no run, may hold anything.
    Scores are q.k * scale (default D**-0.5), then softcap * tanh(score / softcap) when softcap > 0.
    Returns out [N, Hq, D] in q.dtype; with return_lse also lse [N, Hq] float32, the natural log of the sum of the
    exponentials of the scores. A row that sees no key gives zeros and -inf. Sums are float32 whatever the dtype.
    Raises ValueError or TypeError on wrong shapes, dtypes, devices or numbers.
    """
    scale = q.shape[-1] ** -0.5 if scale is None and isinstance(q, Tensor) and q.dim() and q.shape[-1] else scale
    _check(q, k_pages, v_pages, plan)
    expect(OP, scale is not None and isfinite(scale) and scale >= 0, "scale", "finite and >= 0", scale)
    expect(OP, isfinite(softcap) and softcap >= 0, "softcap", "finite and >= 0", softcap)
    expect(OP, isinstance(window, int) and window >= 0, "window", "an int >= 0", window)
    q = q if q.stride(-1) == 1 else q.contiguous()
    out, lse = dispatch(OP, backend, q.device)(q, k_pages, v_pages, plan, scale, softcap, window)
    return (out, lse) if return_lse else out


def _check(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan) -> None:
    dims = Dims(OP)
    dims.shape(q, "q", "N Hq D")
    dims.shape(k_pages, "k_pages", "pages Hkv page_size D")
    dims.shape(v_pages, "v_pages", "pages Hkv page_size D")
    expect_dtype(OP, *REFERENCE_FLOATS, q=q)
    expect_same(OP, "dtype", q=q, k_pages=k_pages, v_pages=v_pages)
    expect_same(OP, "device", q=q, k_pages=k_pages, v_pages=v_pages, plan=plan.units)
    expect_contiguous(OP, k_pages=k_pages, v_pages=v_pages)
    expect(OP, 1 <= dims["D"] <= 256, "head_dim", "1 to 256", dims["D"])
    heads, kv_heads = dims["Hq"], dims["Hkv"]
    expect(OP, kv_heads > 0 and heads % kv_heads == 0, "query heads", f"a multiple of {kv_heads} kv heads", heads)
    size, rows = dims["page_size"], dims["N"]
    expect(OP, size == plan.page_size, "page_size of k_pages", f"{plan.page_size} as in plan", size)
    expect(OP, rows == len(plan.row_pos), "rows of q", f"{len(plan.row_pos)} as in plan", rows)
