"""select_children against torch.topk, group by group: pytest benchmarks/bench_select_children.py."""

from __future__ import annotations

import pytest
import torch
from op_rows import Case
from torch import Tensor

from tts_kernels.ops.select_children import select_children

# Groups, candidates of each, how many are kept, children of all: beams over 1 to 64 problems.
SHAPES = ((1, 64, 16, 64), (1, 1024, 256, 1024), (16, 16, 4, 16), (64, 16, 4, 16), (64, 256, 64, 256))


@pytest.mark.parametrize("rule", ("topk", "rebase"))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_select_children(measure, shape, rule):
    groups, size, kept, children = shape
    scores = torch.rand(groups * size, generator=torch.Generator().manual_seed(0))
    offsets = torch.arange(0, groups * size + 1, size, dtype=torch.int32)
    keep, budget = (torch.full((groups,), count, dtype=torch.int32) for count in (kept, children))

    def ours(backend: str) -> Tensor:
        return select_children(scores, offsets, keep, budget, rule=rule, backend=backend)  # type: ignore

    def topk() -> Tensor:
        """The budget is a multiple of those kept, and all groups are of one size: the best case for torch."""
        best = scores.view(groups, size).topk(kept).indices
        return torch.zeros(groups, size, dtype=torch.int32).scatter_(1, best, children // kept).flatten()

    ways = {"native": lambda: ours("native"), "reference": lambda: ours("reference")}
    assert torch.equal(ours("native"), ours("reference"))
    if rule == "topk":
        assert torch.equal(ours("native"), topk())
        ways["topk, scatter"] = topk
    measure(Case("select_children", f"{rule}, {groups} x {size} candidates, {kept} kept", torch.float32), ways)
