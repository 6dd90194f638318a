"""What else of a decoding step runs on our kernels, against torch: pytest benchmarks/bench_layers.py.

Llama's norm and the middle of its feed-forward layer; they have no op of their own and take a layer's place in
``fast_layers``.
"""

from __future__ import annotations

import pytest
import torch
from op_rows import Case
from torch.nn.functional import rms_norm, silu

from tts_kernels.testing import assert_matches_oracle, peaky

EPS = 1e-5
DTYPES = (torch.float32, torch.bfloat16)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", (1, 32, 512))
@pytest.mark.parametrize("width", (576, 2048))
def test_rms_norm(measure, width, rows, dtype):
    generator = torch.Generator().manual_seed(0)
    x = peaky(rows, width, generator=generator, dtype=dtype)
    weight = peaky(width, generator=generator, dtype=dtype)
    out = torch.empty_like(x)

    def native() -> None:
        torch.ops.tts_kernels.rms_norm(x, weight, out, EPS)

    native()
    oracle = rms_norm(x.double(), (width,), weight.double(), EPS)
    assert_matches_oracle(out, oracle, rms_norm(x, (width,), weight, EPS), "out")
    case = Case("rms_norm", f"{rows} rows of {width}", dtype, nbytes=2.0 * x.nbytes)
    measure(case, {"native": native, "F.rms_norm": lambda: rms_norm(x, (width,), weight, EPS)})


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", (1, 32, 512))
@pytest.mark.parametrize("width", (1536, 8192))
def test_silu_mul(measure, width, rows, dtype):
    generator = torch.Generator().manual_seed(0)
    gate, up = (peaky(rows, width, generator=generator, dtype=dtype) for _ in range(2))
    out = torch.empty_like(gate)

    def native() -> None:
        torch.ops.tts_kernels.silu_mul(gate, up, out)

    native()
    oracle = silu(gate.double()) * up.double()
    assert_matches_oracle(out, oracle, silu(gate) * up, "out")
    case = Case("silu_mul", f"{rows} rows of {width}", dtype, nbytes=3.0 * gate.nbytes)
    measure(case, {"native": native, "silu, mul": lambda: silu(gate) * up})
