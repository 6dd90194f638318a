"""What the decoder asks of a strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field, replace
from itertools import accumulate
from math import isqrt
from typing import TYPE_CHECKING, Any

import torch

from tts_kernels._checks import expect
from tts_kernels.backends import Backend
from tts_kernels.ops.select_children import Rule, select_children
from tts_kernels.scorers import Scores
from tts_kernels.tree import Node, SearchTree, State

if TYPE_CHECKING:
    from tts_kernels.strategies.budget import Budget


@dataclass(frozen=True)
class Allocation:
    """The best ``keep`` of ``candidates`` share ``budget`` children as the rule says (see ``select_children``), the
    others are given up."""

    candidates: list[Node]
    keep: int
    budget: int
    rule: Rule = "topk"
    temperature: float = 0.1


@dataclass(frozen=True)
class Decision:
    """What happens next to one problem's tree. One that is empty ends the search.

    ``expand``: node -> number of children. ``whole``: they run to the end of the solution instead of to the end of a
    step. ``keep``: the nodes may be expanded again later. ``share``: expansions that are left to the scores.
    ``release``: open nodes given up. ``discard``: complete solutions that are no candidates any more.
    ``given``: nodes that get a child with these tokens, in order. ``look``: nodes to be judged by their future: greedy
    rollouts of ``ahead`` steps; ``width``: how many children a node may get afterwards, for the reuse of rollouts.
    """

    expand: list[tuple[Node, int]] = field(default_factory=list)
    release: list[Node] = field(default_factory=list)
    discard: list[Node] = field(default_factory=list)
    share: list[Allocation] = field(default_factory=list)
    given: list[tuple[Node, list[int]]] = field(default_factory=list)
    look: list[Node] = field(default_factory=list)
    ahead: int = 0
    width: int = 1
    whole: bool = False
    keep: bool = False

    @property
    def over(self) -> bool:
        return not (self.expand or self.release or self.discard or self.share or self.given or self.look)


Play = Generator[Decision, None, Any]


class Strategy(ABC):
    """Decides which nodes to expand. Holds its settings only, so one object serves any number of problems.

    ``budget``: complete solutions that a search may produce. ``max_depth``: steps after which a path is cut.
    ``reads_scores``: whether ``play`` looks at scores itself; one that only returns allocations should not, its scores
    then never leave the device before the decision. ``revises``: whether it expands complete solutions.
    ``reads_answers``: whether it needs the ``answer`` of nodes. ``overhead``: what a solution costs it, in solutions
    that are just drawn. ``limit``: a budget in tokens or FLOPs that is never exceeded. ``width``: children that a node
    mostly gets.
    """

    name: str
    reads_scores: bool = False
    revises: bool = False
    reads_answers: bool = False
    overhead: float = 1.0
    limit: Budget | None = None
    width: int = 1

    def __init__(self, budget: int, max_depth: int = 40) -> None:
        for name, value in (("budget", budget), ("max_depth", max_depth)):
            expect(self.name, value >= 1, name, "at least 1", value)
        self.budget = budget
        self.max_depth = max_depth

    @abstractmethod
    def play(self, tree: SearchTree) -> Play:
        """The search of one problem, move by move: when it goes on, the last move is done and its nodes are scored
        (on the host if ``reads_scores``). Randomness comes from the keys of the tree's nodes alone."""

    def start(self, tree: SearchTree) -> Play:
        """``play``, with the tree told how deep it may become."""
        tree.max_depth = self.max_depth
        return self.play(tree)

    def missing(self, tree: SearchTree) -> int:
        """How many complete solutions the budget still allows."""
        return self.budget - sum(1 for _ in tree.complete())


class Rounds(Strategy):
    """One that samples ``budget`` first steps, then round by round shares what is missing among the open nodes."""

    def play(self, tree: SearchTree) -> Play:
        yield Decision(expand=[(tree.root, self.missing(tree))])
        while (candidates := list(tree.in_state(State.OPEN))) and (budget := self.missing(tree)) > 0:
            yield from self.share(tree, candidates, budget)

    @abstractmethod
    def share(self, tree: SearchTree, candidates: list[Node], budget: int) -> Play:
        """One round: ``budget`` more children, of which there is at least one, for the open nodes."""


def root_divisor(number: int) -> int:
    """The largest divisor that is no larger than the square root."""
    return next(divisor for divisor in range(isqrt(number), 0, -1) if number % divisor == 0)


def allocate(
    allocations: list[Allocation], new: list[Node], scores: Scores | None, backend: Backend | None
) -> list[list[int]]:
    """Settle the allocations of all problems, those of one rule in one call on the device of the scores.

    scores: of the nodes ``new``, which need not have reached the host; other candidates have theirs.
    Returns the widths of each allocation's candidates. Raises ValueError for NaN scores.
    """
    candidates = [node for allocation in allocations for node in allocation.candidates]
    place = {id(node): index for index, node in enumerate(new)}
    old = [node for node in candidates if id(node) not in place]
    place |= {id(node): len(new) + index for index, node in enumerate(old)}
    known = torch.tensor([node.worth for node in old], dtype=torch.float32)
    values = known if scores is None else torch.cat([scores.paths, known.to(scores.paths.device)])
    groups: dict[tuple[Rule, float], list[int]] = {}
    for index, allocation in enumerate(allocations):
        if allocation.candidates:
            groups.setdefault((allocation.rule, allocation.temperature), []).append(index)
    widths: list[list[int]] = [[] for _ in allocations]
    for (rule, temperature), members in groups.items():
        group = [allocations[index] for index in members]
        shares = iter(_widths(group, values, place, rule, temperature, backend))
        for index in members:
            widths[index] = [next(shares) for _ in allocations[index].candidates]
    return widths


def _widths(
    group: list[Allocation],
    values: torch.Tensor,
    place: dict[int, int],
    rule: Rule,
    temperature: float,
    backend: Backend | None,
) -> list[int]:
    def on_device(numbers: list[int], dtype: torch.dtype = torch.int32) -> torch.Tensor:
        return torch.tensor(numbers, dtype=dtype, device=values.device)

    return select_children(
        values[on_device([place[id(node)] for each in group for node in each.candidates], torch.int64)],
        on_device([0, *accumulate(len(each.candidates) for each in group)]),
        on_device([each.keep for each in group]),
        on_device([each.budget for each in group]),
        rule=rule,
        temperature=temperature,
        backend=backend,
    ).tolist()


def settle(decision: Decision, widths: list[list[int]]) -> Decision:
    """The decision with its allocations carried out."""
    pairs = [
        pair
        for allocation, shares in zip(decision.share, widths, strict=True)
        for pair in zip(allocation.candidates, shares, strict=True)
    ]
    expand = decision.expand + [(node, width) for node, width in pairs if width]
    release = decision.release + [node for node, width in pairs if not width]
    return replace(decision, expand=expand, release=release, share=[])
