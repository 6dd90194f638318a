import torch
from torch import Tensor

from tts_kernels._checks import expect

# Instruction sets in the order of csrc/cpu/dispatch.h: the first that multiplies bfloat16.
FIRST_WITH_BFLOAT16 = 3
# The matrix unit takes so many bfloat16 of the depth at once.
BFLOAT16_DEPTH = 32


def why_not(dtype: torch.dtype, depth: int) -> str | None:
    """The reason why the kernel does not multiply by a weight of this dtype and depth here, or None."""
    if dtype == torch.float32:
        return None
    if dtype != torch.bfloat16:
        return f"the kernel has no {str(dtype).removeprefix('torch.')}"
    if torch.ops.tts_kernels.cpu_isa() < FIRST_WITH_BFLOAT16:
        return "this processor does not multiply bfloat16"
    return f"in bfloat16 the depth must be a multiple of {BFLOAT16_DEPTH}" if depth % BFLOAT16_DEPTH else None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    reason = why_not(x.dtype, x.shape[1])
    expect("linear", reason is None, "weight", f"one that the native kernel takes ({reason})", list(weight.shape))
    x = x if x.stride(-1) == 1 else x.contiguous()
    out = x.new_empty(x.shape[0], weight.shape[0])
    torch.ops.tts_kernels.linear(x, weight, bias, out)
    return out
