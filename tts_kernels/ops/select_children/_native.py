import torch
from torch import Tensor

from tts_kernels.ops.select_children import RULES, Rule


def select_children(
    scores: Tensor, offsets: Tensor, keep: Tensor, budget: Tensor, rule: Rule, temperature: float
) -> Tensor:
    widths = torch.empty_like(scores, dtype=torch.int32, memory_format=torch.contiguous_format)
    inputs = (x.contiguous() for x in (scores, offsets, keep, budget))
    torch.ops.tts_kernels.select_children(*inputs, widths, RULES.index(rule), temperature)
    return widths
