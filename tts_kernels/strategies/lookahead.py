"""Lookahead search: beam search that judges a step by where it leads (Snell et al. 2408.03314, section 5.1)."""

from __future__ import annotations

from tts_kernels._checks import expect
from tts_kernels.strategies.base import Decision, Play
from tts_kernels.strategies.beam import Beam
from tts_kernels.tree import Node, SearchTree


class Lookahead(Beam):
    """As beam search, but the score of a step is that at the end of a greedy rollout of up to ``ahead`` further steps.

    The rollout is given up afterwards, except where a child draws the very step that the rollout begins with: it takes
    over its tokens, scores and KV, and what is left of the rollout. With ``ahead`` = 0 this is beam search.
    """

    name = "lookahead"
    reads_scores = True

    def __init__(self, budget: int, width: int | str = 4, ahead: int = 1, max_depth: int = 40) -> None:
        super().__init__(budget, width, max_depth)
        expect(self.name, isinstance(ahead, int) and ahead >= 0, "ahead", "at least 0", ahead)
        self.ahead = ahead
        self.overhead = 1.0 + ahead

    def share(self, tree: SearchTree, candidates: list[Node], budget: int) -> Play:
        yield Decision(look=candidates, ahead=self.ahead, width=self.width)
        yield from super().share(tree, candidates, budget)
