"""Best-of-N: N complete solutions sampled independently, one of them chosen (Snell et al. 2408.03314, section 5.1)."""

from __future__ import annotations

from tts_kernels._checks import expect
from tts_kernels.strategies.base import Decision, Play, Strategy
from tts_kernels.tree import SearchTree


class BestOfN(Strategy):
    """``budget`` solutions from the root, no pruning. Majority, weighted or best is a matter of selection."""

    name = "best-of-n"

    def play(self, tree: SearchTree) -> Play:
        yield Decision(expand=[(tree.root, self.missing(tree))], whole=True)


class Greedy(BestOfN):
    """One solution. Sample it with temperature 0 for the most likely token at each place."""

    name = "greedy"

    def __init__(self, budget: int = 1) -> None:
        super().__init__(budget)
        expect(self.name, budget == 1, "budget", "1", budget)
