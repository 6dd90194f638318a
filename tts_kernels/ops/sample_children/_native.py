import torch
from torch import Tensor


def sample_children(
    logits: Tensor,
    keys: Tensor,
    positions: Tensor,
    widths: Tensor,
    total: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    distinct: bool,
) -> tuple[Tensor, Tensor]:
    offsets = widths.new_zeros(len(widths) + 1)
    torch.cumsum(widths, 0, dtype=torch.int32, out=offsets[1:])
    tokens = keys.new_empty(total)
    log_probs = logits.new_empty(total, dtype=torch.float32)
    rows = logits.contiguous(), keys.contiguous(), positions.contiguous()
    torch.ops.tts_kernels.sample_children(*rows, offsets, tokens, log_probs, temperature, top_k, top_p, min_p, distinct)
    return tokens, log_probs
