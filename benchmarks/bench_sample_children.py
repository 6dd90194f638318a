"""sample_children against torch's ways of drawing: pytest benchmarks/bench_sample_children.py.

Torch's ways also give each token's log-probability. Their randomness is the generator's and not a function of the node.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from op_rows import Case
from paired import Run
from torch import Tensor

from tts_kernels.ops.sample_children import sample_children
from tts_kernels.testing import peaky

ROWS = 32
VOCABULARIES = (49_152, 151_936)
Draw = Callable[[Tensor, int], tuple[Tensor, Tensor]]


def multinomial(logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    log_probs = logits.log_softmax(-1, dtype=torch.float32)
    tokens = torch.multinomial(log_probs.exp(), width, replacement=True)
    return tokens, log_probs.gather(1, tokens)


def gumbel_topk(logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    log_probs = logits.log_softmax(-1, dtype=torch.float32)
    tokens = (log_probs - torch.empty_like(log_probs).exponential_().log()).topk(width).indices
    return tokens, log_probs.gather(1, tokens)


def nucleus(logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The largest that make up 0.95, at temperature 0.8."""
    log_probs = logits.log_softmax(-1, dtype=torch.float32)
    probs, order = torch.softmax(log_probs / 0.8, -1).sort(-1, descending=True)
    probs[probs.cumsum(-1) - probs >= 0.95] = 0
    tokens = order.gather(1, torch.multinomial(probs, width, replacement=True))
    return tokens, log_probs.gather(1, tokens)


def argmax(logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    log_probs = logits.log_softmax(-1, dtype=torch.float32)
    return logits.argmax(-1), log_probs.amax(-1)


@dataclass(frozen=True)
class Kind:
    words: str
    width: int
    options: dict[str, Any]
    torch_way: Draw

    def __str__(self) -> str:
        return self.words


KINDS = (
    Kind("a child each", 1, {}, multinomial),
    Kind("4 children each", 4, {}, multinomial),
    Kind("4 distinct children each", 4, {"distinct": True}, gumbel_topk),
    Kind("a child each, temperature 0.8, top-p 0.95", 1, {"temperature": 0.8, "top_p": 0.95}, nucleus),
    Kind("the likeliest", 1, {"temperature": 0.0}, argmax),
)


@pytest.mark.parametrize("vocabulary", VOCABULARIES)
@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_sample_children(measure, kind, dtype, vocabulary):
    generator = torch.Generator().manual_seed(0)
    logits = peaky(ROWS, vocabulary, generator=generator, dtype=dtype)
    keys = torch.randint(-(2**63), 2**63 - 1, (ROWS,), generator=generator)
    positions = torch.full((ROWS,), 1000, dtype=torch.int32)
    widths = torch.full((ROWS,), kind.width, dtype=torch.int32)

    def draw(backend: str) -> Run:
        return lambda: sample_children(logits, keys, positions, widths, **kind.options, backend=backend)  # type: ignore

    ways = {"native": draw("native"), "reference": draw("reference")}
    ours, wanted = (way() for way in ways.values())
    assert torch.equal(ours[0], wanted[0])  # type: ignore
    torch.testing.assert_close(ours[1], wanted[1])  # type: ignore
    case = Case("sample_children", f"{ROWS} rows of {vocabulary:,}, {kind}", dtype, nbytes=float(logits.nbytes))
    name = kind.torch_way.__name__
    measure(case, ways | {name: lambda: kind.torch_way(logits, kind.width)})
