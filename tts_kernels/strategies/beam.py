"""Beam search over steps against a process reward model (Snell et al. 2408.03314, section 5.1)."""

from __future__ import annotations

from tts_kernels.strategies.base import Allocation, Decision, Strategy
from tts_kernels.tree import SearchTree, State


class Beam(Strategy):
    """Sample ``budget`` first steps, keep the best budget / width by score, give each ``width`` children, repeat.

    A path that ends leaves the beam and takes its share along: with C solutions complete, budget - C children are
    sampled from the ceil((budget - C) / width) best open nodes, so a search produces ``budget`` solutions. The paper
    does not say what becomes of early finishers; this is the rule of REBASE (Wu et al. 2408.00724, section 3.2).
    """

    name = "beam"

    def __init__(self, budget: int, width: int = 4, max_depth: int = 40) -> None:
        super().__init__(budget)
        if width < 1:
            raise ValueError(f"beam: width must be at least 1, got {width}")
        if budget % width:
            raise ValueError(f"beam: budget must be a multiple of width {width}, got {budget}")
        if max_depth < 1:
            raise ValueError(f"beam: max_depth must be at least 1, got {max_depth}")
        self.width = width
        self.max_depth = max_depth

    def decide(self, tree: SearchTree) -> Decision | Allocation:
        if not tree.root.num_children:
            return Decision(expand=[(tree.root, self.budget)])
        candidates = list(tree.in_state(State.OPEN))
        ended = sum(1 for _ in tree.in_state(State.FINISHED, State.TRUNCATED))
        budget = self.budget - ended
        if not candidates or budget < 1:
            return Decision(release=candidates)
        return Allocation(candidates, -(-budget // self.width), budget)
