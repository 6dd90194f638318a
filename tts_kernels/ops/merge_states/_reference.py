import torch
from torch import Tensor


def merge_states(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    work = torch.float64 if outs.dtype == torch.float64 else torch.float32
    lse = torch.logsumexp(lses.to(work), dim=0) if len(lses) else lses.new_full(lses.shape[1:], -torch.inf)
    out = torch.zeros(outs.shape[1:], dtype=work, device=outs.device)
    for part_out, part_lse in zip(outs, lses, strict=True):
        seen = part_lse > -torch.inf
        weight = torch.exp(part_lse.to(work) - lse)
        out += torch.where(seen[..., None], weight[..., None] * part_out.to(work), 0.0)
    return out.to(outs.dtype), lse.to(torch.float32)
