from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from tts_kernels.ops.tree_attention._options import Options
    from tts_kernels.plan import Plan


def tree_attention(q: Tensor, k_pages: Tensor, v_pages: Tensor, plan: Plan, options: Options) -> tuple[Tensor, Tensor]:
    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    out = torch.zeros(q.shape, dtype=work, device=q.device)
    lse = torch.full(q.shape[:2], -torch.inf, dtype=work, device=q.device)
    if options.sinks is not None:
        lse[:] = options.sinks
    for row, tokens in enumerate(visible_tokens(plan, options.window)):
        if tokens.numel():
            k = load_tokens(k_pages, options.k_scales, tokens, work)
            v = load_tokens(v_pages, options.v_scales, tokens, work)
            out[row], lse[row] = attend(q[row].to(work), k, v, options)
    return out.to(q.dtype), lse.to(torch.float32)


def visible_tokens(plan: Plan, window: int) -> list[Tensor]:
    """For each row the tokens it sees, as page * page_size + offset."""
    size, pages, row_pos, runs = plan.page_size, plan.pages.long(), plan.row_pos.tolist(), plan.runs.tolist()
    seen: list[list[Tensor]] = [[pages[:0]] for _ in row_pos]
    for _, _, run_begin, run_end, _ in plan.units.tolist():
        for row_begin, row_end, page_begin, base, length in runs[run_begin:run_end]:
            for row in range(row_begin, row_end):
                low = max(base, row_pos[row] - window + 1) if window else base
                high = min(base + length, row_pos[row] + 1)
                token = torch.arange(low - base, max(low, high) - base, device=pages.device)
                seen[row].append(pages[page_begin + token // size] * size + token % size)
    return [torch.cat(parts) for parts in seen]


def load_tokens(pages: Tensor, scales: Tensor | None, tokens: Tensor, dtype: torch.dtype) -> Tensor:
    """Keys or values [T, Hkv, D] of tokens given as page * page_size + offset."""
    page, offset = tokens // pages.shape[2], tokens % pages.shape[2]
    values = pages[page, :, offset].to(dtype)
    return values if scales is None else values * scales[page, :, None].to(dtype)


def attend(q: Tensor, k: Tensor, v: Tensor, options: Options) -> tuple[Tensor, Tensor]:
    """One row: q [Hq, D] over k, v [T, Hkv, D]. Returns out [Hq, D] and lse [Hq]."""
    grouped = q.unflatten(0, (k.shape[1], -1))
    scores = torch.einsum("hgd,thd->hgt", grouped, k) * options.scale
    if options.softcap > 0:
        scores = options.softcap * torch.tanh(scores / options.softcap)
    lse = torch.logsumexp(scores, dim=-1)
    out = torch.einsum("hgt,thd->hgd", torch.softmax(scores, dim=-1), v)
    if options.sinks is not None:
        with_sinks = torch.logaddexp(lse, options.sinks.to(lse.dtype).view_as(lse))
        out, lse = out * torch.exp(lse - with_sinks)[..., None], with_sinks
    return out.flatten(0, 1), lse.flatten()
