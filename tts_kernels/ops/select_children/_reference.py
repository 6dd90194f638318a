import math
from itertools import pairwise

import torch
from torch import Tensor


def share_evenly(scores: list[float], budget: int) -> list[int]:
    return [budget // len(scores) + (i < budget % len(scores)) for i in range(len(scores))]


def share_by_weight(scores: list[float], budget: int, temperature: float) -> list[int]:
    """scores: descending. Remaining weights are summed from the small end, so that they do not drift."""
    weights = [1.0 if score == scores[0] else math.exp((score - scores[0]) / temperature) for score in scores]
    remaining = torch.tensor(weights[::-1], dtype=torch.float64).cumsum(0).flip(0).tolist()
    widths = []
    for weight, rest in zip(weights, remaining, strict=True):
        # A share that is a whole number but for rounding is that number: equal scores share evenly.
        widths.append(math.ceil(budget * weight / rest * (1 - 1e-12)) if budget > 0 else 0)
        budget -= widths[-1]
    return widths


def select_children(
    scores: Tensor, offsets: Tensor, keep: Tensor, budget: Tensor, rule: str, temperature: float
) -> Tensor:
    widths = torch.zeros_like(scores, dtype=torch.int32)
    for (begin, end), kept, total in zip(pairwise(offsets.tolist()), keep.tolist(), budget.tolist(), strict=True):
        group = scores[begin:end]
        order = torch.argsort(group, descending=True, stable=True)[:kept]
        if len(order):
            best = group[order].tolist()
            shares = share_evenly(best, total) if rule == "topk" else share_by_weight(best, total, temperature)
            widths[begin + order] = torch.tensor(shares, dtype=torch.int32, device=widths.device)
    return widths
