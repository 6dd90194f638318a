"""What the decoder asks of a scorer."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor

from tts_kernels.kv_pool import KVLayout
from tts_kernels.scorers.steps import PolicySide
from tts_kernels.tree import Node, SearchTree

# "model": one score for the whole partial answer, from one tag at its end.
Aggregate = Literal["last", "min", "prod", "mean", "model"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)


class PathTooLong(ValueError):
    """A path has more tokens than the scorer's model can read. ``tree``: whose."""

    def __init__(self, tree: SearchTree, message: str) -> None:
        super().__init__(f"problem {tree.problem_id!r}: {message}")
        self.tree = tree


@dataclass(frozen=True)
class Scores:
    """The scores of a batch, perhaps still being computed. ``paths``: float32 [len(batch)] on the scorer's device.

    ``write``: waits for them and sets ``step_scores``, ``num_steps`` and ``score`` of the nodes.
    """

    paths: Tensor
    write: Callable[[], None]


@dataclass(frozen=True)
class Spent:
    """What scoring one problem took: tokens that the model read, FLOPs, bytes of keys and values."""

    tokens: int = 0
    flops: int = 0
    kv_bytes: int = 0


class Scorer(Protocol):
    """Scores steps as they are made. ``add`` and ``score`` may raise OutOfPages, having changed nothing."""

    @property
    def context_length(self) -> int:
        """Most tokens of a path that it can score."""

    @property
    def bounded(self) -> bool:
        """Whether scores are in [0, 1], so that they can be summed as votes."""

    @property
    def kv_layout(self) -> KVLayout | None:
        """The pages it wants from the memory of the policy; None when it needs none or has its own."""

    def bind(self, policy: PolicySide) -> None:
        """Get to know the policy whose steps are to be scored. Raises ValueError where they do not go together."""

    def attached(self) -> AbstractContextManager[None]:
        """Holds for as long as a search runs."""

    def add(self, trees: list[SearchTree]) -> None:
        """Problems join: get ready to score their nodes."""

    def score(self, batch: list[tuple[SearchTree, Node]]) -> Scores:
        """Score new nodes, whose parents' scores are written. Raises PathTooLong, having changed nothing."""

    def adopt(self, tree: SearchTree, node: Node, twin: Node) -> None:
        """``node`` has the steps of ``twin``, which was scored behind a node that reads as its parent does: it need
        not be scored again."""

    def spent(self, tree: SearchTree) -> Spent:
        """What was spent on a problem that is still known, not counting what had to be computed again."""

    def release(self, tree: SearchTree, nodes: list[Node]) -> None:
        """These nodes will have no (further) children to be scored."""

    def drop(self, tree: SearchTree) -> None:
        """The problem is done or put off: forget it."""

    def spill(self) -> bool:
        """Give pages back that can be computed again. False when there are none."""

    def counters(self) -> dict[str, int]:
        """What was spent so far, see RunStats.scorer."""


class HostScorer:
    """What scorers without a model share: no pages, scores known at once. Subclasses define ``judge``."""

    context_length = 2**31 - 1
    bounded = True
    kv_layout: KVLayout | None = None

    def bind(self, policy: PolicySide) -> None:
        self.policy = policy

    def judge(self, tree: SearchTree, node: Node) -> float:
        raise NotImplementedError

    def score(self, batch: list[tuple[SearchTree, Node]]) -> Scores:
        """One score for the whole path up to the node."""
        values = [self.judge(tree, node) for tree, node in batch]

        def write() -> None:
            for (_, node), value in zip(batch, values, strict=True):
                node.score = value
                node.step_scores = [value] * len(node.step_ends)
                node.num_steps += len(node.step_ends)

        return Scores(torch.tensor(values, dtype=torch.float32), write)

    def attached(self) -> AbstractContextManager[None]:
        return nullcontext()

    def add(self, trees: list[SearchTree]) -> None:
        pass

    def adopt(self, tree: SearchTree, node: Node, twin: Node) -> None:
        pass

    def spent(self, tree: SearchTree) -> Spent:
        return Spent()

    def release(self, tree: SearchTree, nodes: list[Node]) -> None:
        pass

    def drop(self, tree: SearchTree) -> None:
        pass

    def spill(self) -> bool:
        return False

    def counters(self) -> dict[str, int]:
        return {}
