"""REBASE: children in proportion to the soft-max of rewards (Wu et al. 2408.00724, section 3.2)."""

from __future__ import annotations

from tts_kernels._checks import expect
from tts_kernels.strategies.base import Allocation, Decision, Play, Rounds
from tts_kernels.tree import Node, SearchTree


class Rebase(Rounds):
    """Sample ``budget`` first steps; at every depth the solutions that are complete take their share of the budget
    along, and the rest is divided among the open nodes by the soft-max of their scores.

    ``temperature``: of that soft-max, T_b of the paper. The shares are whole numbers that sum to the budget exactly,
    as in ``select_children``.
    """

    name = "rebase"

    def __init__(self, budget: int, temperature: float = 0.1, max_depth: int = 25) -> None:
        super().__init__(budget, max_depth)
        expect(self.name, 0 < temperature < float("inf"), "temperature", "positive and finite", temperature)
        self.temperature = temperature

    def share(self, tree: SearchTree, candidates: list[Node], budget: int) -> Play:
        yield Decision(share=[Allocation(candidates, len(candidates), budget, "rebase", self.temperature)])
