"""linear against torch's, for the numbers of rows that ``fast_layers`` gives it: pytest benchmarks/bench_linear.py.

A decoding step reads every weight once and not from a cache: a reading goes through many weights of one shape.
"""

from __future__ import annotations

import pytest
import torch
from op_rows import Case
from torch.nn.functional import linear as torch_linear

from tts_kernels.backends import why_not
from tts_kernels.layers import ROWS
from tts_kernels.ops.linear import _native, linear
from tts_kernels.testing import assert_matches_oracle, peaky

# SmolLM2-135M's products, from its queries to its head, and the largest of a layer of Llama 3.2 1B: width, depth.
SHAPES = ((576, 576), (192, 576), (1536, 576), (576, 1536), (49152, 576), (8192, 2048))
# More than a core's own caches hold.
WEIGHTS_BYTES = 48 << 20


@pytest.mark.parametrize("rows", (1, 4, 32, 128))
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_linear(measure, shape, dtype, rows):
    width, depth = shape
    fewest, most = ROWS[dtype]
    reason = why_not("linear", "native", "cpu") or _native.why_not(dtype, depth)
    if reason or not fewest <= rows <= most:
        pytest.skip(reason or f"the model's own product is kept for {rows} rows")
    count = -(-WEIGHTS_BYTES // (width * depth * dtype.itemsize))
    generator = torch.Generator().manual_seed(0)
    x = peaky(rows, depth, generator=generator, dtype=dtype)
    weights = [peaky(width, depth, generator=generator, dtype=dtype)]
    weights += [weights[0].clone() for _ in range(count - 1)]

    oracle = linear(x.double(), weights[0].double(), backend="reference")
    same = linear(x, weights[0], backend="reference")
    assert_matches_oracle(linear(x, weights[0], backend="native"), oracle, same, "out")

    moved = (width * depth + rows * (width + depth)) * dtype.itemsize
    flops = 2.0 * rows * width * depth
    case = Case("linear", f"{rows} rows, {depth} to {width}", dtype, flops=flops, nbytes=float(moved), calls=count)
    measure(
        case,
        {
            "native": lambda: [linear(x, weight, backend="native") for weight in weights],
            "F.linear": lambda: [torch_linear(x, weight) for weight in weights],
        },
    )
