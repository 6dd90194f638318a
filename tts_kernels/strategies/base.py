"""What the decoder asks of a strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from tts_kernels.backends import Backend
from tts_kernels.ops.select_children import Rule, select_children
from tts_kernels.scorers import Scores
from tts_kernels.tree import Node, SearchTree


@dataclass(frozen=True)
class Decision:
    """What happens next to one problem's tree. Nothing to expand: the search is over.

    ``expand``: node -> number of children. ``release``: open nodes given up. ``whole``: children run to the end of the
    solution instead of to the end of a step.
    """

    expand: list[tuple[Node, int]] = field(default_factory=list)
    release: list[Node] = field(default_factory=list)
    whole: bool = False


@dataclass(frozen=True)
class Allocation:
    """Leave the next move to the scores: the best ``keep`` of ``candidates`` share ``budget`` children as the
    strategy's rule says (see ``select_children``), the others are given up."""

    candidates: list[Node]
    keep: int
    budget: int


class Strategy(ABC):
    """Decides which nodes to expand. Holds its settings only, so one object serves any number of problems.

    ``budget``: complete solutions that a search may produce. ``max_depth``: steps after which a path is cut.
    ``rule``, ``temperature``: how allocations are shared out. ``reads_scores``: whether ``decide`` looks at scores
    itself; one that only returns allocations should not, its scores then never leave the device before the decision.
    """

    name: str
    max_depth: int = 40
    rule: Rule = "topk"
    temperature: float = 0.1
    reads_scores: bool = False

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise ValueError(f"{self.name}: budget must be at least 1, got {budget}")
        self.budget = budget

    @abstractmethod
    def decide(self, tree: SearchTree) -> Decision | Allocation:
        """The next move, a function of the tree alone."""


def allocate(
    strategy: Strategy, allocations: list[Allocation], new: list[Node], scores: Scores | None, backend: Backend | None
) -> list[Decision]:
    """Settle the allocations of all problems in one call, on the device of the scores.

    scores: of the nodes ``new``, which need not have reached the host; other candidates have theirs.
    """
    candidates = [node for allocation in allocations for node in allocation.candidates]
    if not candidates:
        return [Decision() for _ in allocations]
    place = {id(node): index for index, node in enumerate(new)}
    old = [node for node in candidates if id(node) not in place]
    place |= {id(node): len(new) + index for index, node in enumerate(old)}
    known = torch.tensor([node.score for node in old], dtype=torch.float32)
    values = known if scores is None else torch.cat([scores.paths, known.to(scores.paths.device)])

    def on_device(numbers: list[int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.tensor(numbers, dtype=dtype, device=values.device)

    widths = select_children(
        values[on_device([place[id(node)] for node in candidates], torch.int64)],
        on_device([0, *accumulate(len(allocation.candidates) for allocation in allocations)]),
        on_device([allocation.keep for allocation in allocations]),
        on_device([allocation.budget for allocation in allocations]),
        rule=strategy.rule,
        temperature=strategy.temperature,
        backend=backend,
    ).tolist()
    shares = iter(widths)
    decisions = []
    for allocation in allocations:
        pairs = [(node, next(shares)) for node in allocation.candidates]
        decisions.append(Decision([pair for pair in pairs if pair[1]], [node for node, width in pairs if not width]))
    return decisions
