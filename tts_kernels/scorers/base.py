"""What the decoder asks of a scorer."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, Protocol, get_args

from tts_kernels.tree import Node, SearchTree

Aggregate = Literal["last", "min", "prod", "mean"]
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)


class Scorer(Protocol):
    """Scores steps as they are made. Every method may raise OutOfPages, having changed nothing.

    ``context_length``: most tokens of a path that it can score. A scorer may have ``vocab``, the token ids it reads.
    """

    @property
    def context_length(self) -> int: ...

    def attached(self) -> AbstractContextManager[None]:
        """Holds for as long as a search runs."""

    def add(self, trees: list[SearchTree]) -> None:
        """Problems join: get ready to score their nodes."""

    def score(self, batch: list[tuple[SearchTree, Node]]) -> None:
        """Set ``step_scores``, ``num_steps`` and ``score`` of new nodes. Their parents were scored before."""

    def release(self, tree: SearchTree, nodes: list[Node]) -> None:
        """These nodes will have no (further) children to be scored."""

    def drop(self, tree: SearchTree) -> None:
        """The problem is done or put off: forget it."""

    def counters(self) -> dict[str, int]:
        """What was spent so far, see RunStats.scorer."""
