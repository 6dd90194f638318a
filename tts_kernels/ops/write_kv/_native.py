import torch
from torch import Tensor

from tts_kernels import _ext


def write_kv(
    k: Tensor,
    v: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    slots: Tensor,
    k_scales: Tensor | None,
    v_scales: Tensor | None,
) -> None:
    if k_scales is not None and not _ext.runs_cuda_kernels(k_pages.device):
        dtype = str(k_pages.dtype).removeprefix("torch.")
        raise TypeError(f"write_kv: the native CPU kernels write no {dtype} pages; ask for another backend")
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    torch.ops.tts_kernels.write_kv(k, v, k_pages, v_pages, slots.contiguous(), k_scales, v_scales)
