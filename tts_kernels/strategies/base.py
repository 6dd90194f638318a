"""What the decoder asks of a strategy."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

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


class Strategy(ABC):
    """Decides which nodes to expand. Holds its settings only, so one object serves any number of problems.

    ``budget``: complete solutions that a search may produce. ``max_depth``: steps after which a path is cut.
    """

    name: str
    max_depth: int = 40

    def __init__(self, budget: int) -> None:
        if budget < 1:
            raise ValueError(f"{self.name}: budget must be at least 1, got {budget}")
        self.budget = budget

    @abstractmethod
    def decide(self, tree: SearchTree) -> Decision:
        """The next move, a function of the tree alone."""
