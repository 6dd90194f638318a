"""A weight matrix times few rows, as a decoding step needs it."""

from __future__ import annotations

from torch import Tensor

from tts_kernels._checks import REFERENCE_FLOATS, Dims, expect_contiguous, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch

OP = "linear"


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, backend: Backend | None = None) -> Tensor:
    """``x @ weight.T + bias``: what torch.nn.functional.linear gives.

    x: [N, K] float32, bfloat16 or float16, any strides (copied if K is not contiguous); weight: [M, K], contiguous;
    bias: [M] or None; one dtype. Returns [N, M] of that dtype; sums are float32.
    The native kernel, on the CPU only, reads the weight once, as it lies and in order, for any number of rows. It
    takes float32; bfloat16 with K a multiple of 32 where the processor has AVX512_BF16; and nothing else.
    Raises ValueError or TypeError on wrong shapes, dtypes or devices.
    """
    dims = Dims(OP)
    dims.shape(x, "x", "N K")
    dims.shape(weight, "weight", "M K")
    expect_dtype(OP, *REFERENCE_FLOATS, x=x)
    expect_same(OP, "dtype", x=x, weight=weight)
    expect_same(OP, "device", x=x, weight=weight)
    expect_contiguous(OP, weight=weight)
    if bias is not None:
        dims.shape(bias, "bias", "M")
        expect_same(OP, "dtype", x=x, bias=bias)
        expect_same(OP, "device", x=x, bias=bias)
        expect_contiguous(OP, bias=bias)
    return dispatch(OP, backend, x.device)(x, weight, bias)
