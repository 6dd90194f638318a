"""Doubles for Triton kernels: a float argument would arrive as float32."""

import struct

import triton
import triton.language as tl


def double_bits(x: float) -> int:
    """A double as the integer that passes it to a kernel unrounded."""
    return struct.unpack("<q", struct.pack("<d", x))[0]


@triton.jit
def as_double(bits):
    """The double whose bits came as an integer argument."""
    return bits.to(tl.int64).to(tl.float64, bitcast=True)
