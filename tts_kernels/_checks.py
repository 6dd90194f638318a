"""Checks of op arguments whose errors name the op, the argument, what was wanted and what came."""

from __future__ import annotations

import torch
from torch import Tensor


class Dims:
    """Binds the letters of shape strings to sizes across the arguments of one op call."""

    def __init__(self, op: str) -> None:
        self.op = op
        self.sizes: dict[str, int] = {}
        self._source: dict[str, str] = {}

    def __getitem__(self, letter: str) -> int:
        return self.sizes[letter]

    def shape(self, tensor: Tensor, name: str, spec: str) -> None:
        """Check ``tensor`` against e.g. ``"P N Hq D"``; a number in the spec is a fixed size."""
        if not isinstance(tensor, Tensor):
            wanted_shape, got = ", ".join(spec.split()), type(tensor).__name__
            raise TypeError(f"{self.op}: {name} must be a tensor [{wanted_shape}], got {got}")
        letters = spec.split()
        wanted = [int(x) if x.isdigit() else self.sizes.get(x) for x in letters]
        fits = tensor.dim() == len(letters) and all(
            want is None or want == got for want, got in zip(wanted, tensor.shape, strict=True)
        )
        if not fits:
            bound = [f"{x}={self.sizes[x]} from {self._source[x]}" for x in letters if x in self.sizes]
            note = f" ({', '.join(bound)})" if bound else ""
            raise ValueError(f"{self.op}: {name} must be [{', '.join(letters)}], got {list(tensor.shape)}{note}")
        for letter, size in zip(letters, tensor.shape, strict=True):
            if not letter.isdigit() and letter not in self.sizes:
                self.sizes[letter] = size
                self._source[letter] = name


def expect_dtype(op: str, *dtypes: torch.dtype, **tensors: Tensor) -> None:
    """Every tensor named must have one of ``dtypes``."""
    for name, tensor in tensors.items():
        if tensor.dtype not in dtypes:
            wanted = " or ".join(str(d).removeprefix("torch.") for d in dtypes)
            raise TypeError(f"{op}: {name} must be {wanted}, got {str(tensor.dtype).removeprefix('torch.')}")


def expect_same(op: str, what: str, **tensors: Tensor) -> None:
    """All tensors named must agree in ``what`` ("dtype" or "device")."""
    (first, model), *rest = tensors.items()
    for name, tensor in rest:
        wanted, got = getattr(model, what), getattr(tensor, what)
        if wanted != got:
            kind = TypeError if what == "dtype" else ValueError
            raise kind(f"{op}: {name} must have the {what} of {first}, {wanted}, got {got}")


def expect_contiguous(op: str, **tensors: Tensor) -> None:
    """Tensors that an op writes must be contiguous: a hidden copy would lose the result."""
    for name, tensor in tensors.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{op}: {name} must be contiguous, got strides {tensor.stride()} for {list(tensor.shape)}")


def expect(op: str, ok: bool, argument: str, wanted: str, got: object) -> None:
    """One line for the checks that fit no other helper."""
    if not ok:
        raise ValueError(f"{op}: {argument} must be {wanted}, got {got}")


FLOATS = (torch.float32, torch.bfloat16, torch.float16)
# The reference also takes float64, in which tests compute the oracle.
REFERENCE_FLOATS = (*FLOATS, torch.float64)
