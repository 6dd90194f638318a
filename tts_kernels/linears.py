"""A model's own products with few rows, by our kernel, as long as a model is attached."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tts_kernels import _ext
from tts_kernels.ops.linear._native import why_not

# Between these numbers of rows our kernel is the faster one: one row is a product with a vector, and with many torch's
# spends more on the layout of the weight and gets it back (benchmarks/bench_linear.py).
ROWS = {torch.float32: (4, 128), torch.bfloat16: (1, 256)}


@contextmanager
def fast_linears(model: nn.Module) -> Iterator[None]:
    """Inside, the plain linear layers of a model on the CPU use our kernel for the numbers of rows that suit it.

    Weights stay where and as they are. Layers of other classes, with a forward of their own or with what the kernel
    does not take keep theirs.
    """
    changed = [module for module in model.modules() if _suits(module)]
    for module in changed:
        module.forward = _forward_of(module)
    try:
        yield
    finally:
        for module in changed:
            del module.forward


def _suits(module: nn.Module) -> bool:
    if type(module) is not nn.Linear or "forward" in vars(module) or _ext.why_not_native() is not None:
        return False
    weight, bias = module.weight, module.bias
    whole = weight.device.type == "cpu" and weight.is_contiguous() and (bias is None or bias.dtype == weight.dtype)
    return whole and weight.dtype in ROWS and why_not(weight.dtype, module.in_features) is None


def _forward_of(module: nn.Linear):  # type: ignore[no-untyped-def]
    weight, bias, (fewest, most) = module.weight, module.bias, ROWS[module.weight.dtype]
    multiply, width = torch.ops.tts_kernels.linear.default, module.out_features

    def forward(x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if not fewest <= rows <= most or x.dtype != weight.dtype or torch.is_grad_enabled() or not x.is_contiguous():
            return nn.functional.linear(x, weight, bias)
        out = x.new_empty(*x.shape[:-1], width)
        multiply(x.view(rows, -1), weight, bias, out.view(rows, width))
        return out

    return forward
