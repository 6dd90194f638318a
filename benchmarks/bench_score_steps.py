"""score_steps against torch, with the head's whole vocabulary and with the two rows of it that matter:
pytest benchmarks/bench_score_steps.py.
"""

from __future__ import annotations

import pytest
import torch
from op_rows import Case
from torch import Tensor
from torch.nn.functional import linear

from tts_kernels.ops.score_steps import score_steps
from tts_kernels.testing import assert_matches_oracle, peaky

# Step ends, hidden size, vocabulary.
SHAPES = ((8, 576, 49_152), (64, 576, 49_152), (512, 576, 49_152), (64, 2048, 151_936))
GOOD, BAD = 648, 387
STEPS_PER_PATH = 4


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_score_steps(measure, shape, dtype):
    steps, width, vocabulary = shape
    generator = torch.Generator().manual_seed(0)
    hidden = peaky(steps * 16, width, generator=generator, dtype=dtype)
    head = torch.randn(vocabulary, width, generator=generator, dtype=dtype) * width**-0.5
    two = head[[GOOD, BAD]]
    rows = torch.arange(15, steps * 16, 16, dtype=torch.int32)
    offsets = torch.arange(0, steps + 1, STEPS_PER_PATH, dtype=torch.int32)
    ends = rows.long()

    def ours(backend: str, hidden: Tensor = hidden, two: Tensor = two) -> Tensor:
        return score_steps(hidden, rows, offsets, two, aggregate="prod", backend=backend)[1]  # type: ignore

    def full_head() -> Tensor:
        scores = linear(hidden[ends], head)[:, [GOOD, BAD]].softmax(-1, dtype=torch.float32)[:, 0]
        return scores.view(-1, STEPS_PER_PATH).prod(1)

    def two_rows() -> Tensor:
        scores = linear(hidden[ends], two).softmax(-1, dtype=torch.float32)[:, 0]
        return scores.view(-1, STEPS_PER_PATH).prod(1)

    assert_matches_oracle(ours("native"), ours("reference", hidden.double(), two.double()), ours("reference"), "paths")
    nbytes = float((steps + 2) * width * dtype.itemsize)
    measure(
        Case("score_steps", f"{steps} steps of {width}, vocabulary of {vocabulary:,}", dtype, nbytes=nbytes),
        {
            "native": lambda: ours("native"),
            "reference": lambda: ours("reference"),
            "full head, softmax": full_head,
            "two rows, softmax": two_rows,
        },
    )
