"""REBASE: children in proportion to the soft-max of rewards (Wu et al. 2408.00724, section 3.2)."""

from __future__ import annotations

from tts_kernels.strategies.base import Allocation, Decision, Play, Strategy
from tts_kernels.tree import SearchTree, State


class Rebase(Strategy):
    """Sample ``budget`` first steps; at every depth the solutions that are complete take their share of the budget
    along, and the rest is divided among the open nodes by the soft-max of their scores.

    ``temperature``: of that soft-max, T_b of the paper. The shares are whole numbers that sum to the budget exactly,
    as in ``select_children``.
    """

    name = "rebase"

    def __init__(self, budget: int, temperature: float = 0.1, max_depth: int = 25) -> None:
        super().__init__(budget, max_depth)
        if not 0 < temperature < float("inf"):
            raise ValueError(f"{self.name}: temperature must be positive and finite, got {temperature}")
        self.temperature = temperature

    def play(self, tree: SearchTree) -> Play:
        yield Decision(expand=[(tree.root, self.missing(tree))])
        while (candidates := list(tree.in_state(State.OPEN))) and (budget := self.missing(tree)) > 0:
            yield Decision(share=[Allocation(candidates, len(candidates), budget, "rebase", self.temperature)])
