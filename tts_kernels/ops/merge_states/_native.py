import torch
from torch import Tensor


def merge_states(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    out = outs.new_empty(outs.shape[1:])
    lse = lses.new_empty(lses.shape[1:])
    torch.ops.tts_kernels.merge_states(outs.contiguous(), lses.contiguous(), out, lse)
    return out, lse
