"""merge_states against torch's soft-max and einsum: pytest benchmarks/bench_merge_states.py."""

from __future__ import annotations

import pytest
import torch
from op_rows import Case
from torch import Tensor

from tts_kernels.ops.merge_states import merge_states
from tts_kernels.testing import assert_matches_oracle, peaky

SHAPES = ((2, 32, 9, 64), (8, 32, 9, 64), (4, 256, 9, 64), (2, 32, 32, 128), (8, 64, 32, 128))


def by_einsum(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    lse = lses.logsumexp(0)
    return torch.einsum("pnh,pnhd->nhd", (lses - lse).exp().to(outs.dtype), outs), lse


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_merge_states(measure, shape, dtype):
    parts, rows, heads, head_dim = shape
    generator = torch.Generator().manual_seed(0)
    outs = peaky(*shape, generator=generator, dtype=dtype)
    lses = peaky(parts, rows, heads, generator=generator)
    oracle = merge_states(outs.double(), lses, backend="reference")[0]
    same = merge_states(outs, lses, backend="reference")[0]
    assert_matches_oracle(merge_states(outs, lses, backend="native")[0], oracle, same, "out")
    nbytes = outs.nbytes + lses.nbytes + (outs.nbytes + lses.nbytes) / parts
    measure(
        Case("merge_states", f"{parts} parts, {rows} rows, {heads} heads of {head_dim}", dtype, nbytes=nbytes),
        {
            "native": lambda: merge_states(outs, lses, backend="native"),
            "reference": lambda: merge_states(outs, lses, backend="reference"),
            "logsumexp, einsum": lambda: by_einsum(outs, lses),
        },
    )
