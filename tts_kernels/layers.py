"""A model's own layers by our kernels, as long as the model is attached: what a decoding step does besides attention.

Weights stay where and as they are. A layer is only taken over when its class or its result on random numbers says that
it computes what the kernel does; all others, and layers with a forward of their own, keep theirs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tts_kernels import _ext
from tts_kernels.ops.linear._native import why_not

Forward = Callable[[Tensor], Tensor]
# Between these numbers of rows our linear kernel is the faster one: one row is a product with a vector, and with many
# torch's spends more on the layout of the weight and gets it back (benchmarks/bench_linear.py).
ROWS = {torch.float32: (4, 128), torch.bfloat16: (1, 256)}
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
# What random numbers said of a layer, and the dtype in which they were asked: a large model's answer takes a while.
_verdicts: WeakKeyDictionary[nn.Module, tuple[torch.dtype, bool]] = WeakKeyDictionary()


@contextmanager
def fast_layers(model: nn.Module) -> Iterator[None]:
    """Inside, layers of a model on the CPU that our kernels can stand in for use them; afterwards all is as before."""
    found: list[tuple[nn.Module, Forward]] = []
    if _ext.why_not_native() is None:
        for module in model.modules():
            forward = None if "forward" in vars(module) else _linear(module) or _rms_norm(module) or _gated(module)
            if forward is not None:
                found.append((module, forward))
    for module, forward in found:
        module.forward = forward
    try:
        yield
    finally:
        for module, _ in found:
            del module.forward


def _usable(*weights: Tensor | None) -> bool:
    present = [weight for weight in weights if weight is not None]
    same = len({weight.dtype for weight in present}) == 1 and present[0].dtype in FLOATS
    return same and all(weight.device.type == "cpu" and weight.is_contiguous() for weight in present)


def _taken(x: Tensor, weight: Tensor) -> bool:
    return x.dtype == weight.dtype and x.is_contiguous() and not torch.is_grad_enabled()


def _linear(module: nn.Module) -> Forward | None:
    if type(module) is not nn.Linear or not _usable(module.weight, module.bias):
        return None
    weight, bias, width = module.weight, module.bias, module.out_features
    if weight.dtype not in ROWS or why_not(weight.dtype, module.in_features) is not None:
        return None
    (fewest, most), multiply = ROWS[weight.dtype], torch.ops.tts_kernels.linear.default

    def forward(x: Tensor) -> Tensor:
        rows = x.numel() // x.shape[-1]
        if not (fewest <= rows <= most and _taken(x, weight)):
            return linear(x, weight, bias)
        out = x.new_empty(*x.shape[:-1], width)
        multiply(x.view(rows, -1), weight, bias, out.view(rows, width))
        return out

    return forward


def _rms_norm(module: nn.Module) -> Forward | None:
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    if not type(module).__name__.endswith("RMSNorm") or not isinstance(eps, float):
        return None
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or weight.dim() != 1 or not _usable(weight):
        return None
    norm, own = torch.ops.tts_kernels.rms_norm.default, module.forward

    def forward(x: Tensor) -> Tensor:
        if not _taken(x, weight):
            return own(x)
        out = torch.empty_like(x)
        norm(x, weight, out, eps)
        return out

    return forward if _agree(module, forward, weight.shape[0], weight) else None


def _gated(module: nn.Module) -> Forward | None:
    """The gated feed-forward layer of the Llama family: down(silu(gate(x)) * up(x))."""
    parts: list[Any] = [getattr(module, name, None) for name in ("gate_proj", "up_proj", "down_proj")]
    gate, up, down = parts
    if not all(type(part) is nn.Linear for part in parts) or not _usable(gate.weight, up.weight):
        return None
    combine, own = torch.ops.tts_kernels.silu_mul.default, module.forward

    def forward(x: Tensor) -> Tensor:
        if not _taken(x, gate.weight):
            return own(x)
        out = gate(x)
        combine(out, up(x), out)
        return down(out)

    return forward if _agree(module, forward, gate.in_features, gate.weight) else None


@torch.inference_mode()
def _agree(module: nn.Module, ours: Forward, width: int, weight: Tensor) -> bool:
    """Whether both give the same on random numbers, large and small ones, but for rounding."""
    dtype = weight.dtype
    if _verdicts.get(module, (None, False))[0] != dtype:
        scales = torch.tensor([0.1, 1.0, 10.0])[:, None]
        x = (torch.randn(3, width, generator=torch.Generator().manual_seed(0)) * scales).to(dtype)
        wanted, got = module(x).float(), ours(x).float()
        tolerance = 8 * torch.finfo(dtype).eps * wanted.abs().amax(-1, keepdim=True)
        same = wanted.shape == got.shape and bool(((wanted - got).abs() <= tolerance).all())
        _verdicts[module] = (dtype, same)
    return _verdicts[module][1]
