import torch
from torch import Tensor


def write_kv(
    k: Tensor,
    v: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    slots: Tensor,
    k_scales: Tensor | None,
    v_scales: Tensor | None,
) -> None:
    k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (k, v))
    torch.ops.tts_kernels.write_kv(k, v, k_pages, v_pages, slots.contiguous(), k_scales, v_scales)
