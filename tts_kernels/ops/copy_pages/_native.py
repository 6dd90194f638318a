import torch
from torch import Tensor


def copy_pages(k_pages: Tensor, v_pages: Tensor, src: Tensor, dst: Tensor) -> None:
    torch.ops.tts_kernels.copy_pages(k_pages, v_pages, src.contiguous(), dst.contiguous())
