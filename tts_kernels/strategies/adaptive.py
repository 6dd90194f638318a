"""Strategies that look at the problem first: by a policy fitted before, or by a test during the search."""

from __future__ import annotations

import math
from collections.abc import Callable

from tts_kernels._checks import expect
from tts_kernels.strategies.base import Decision, Play, Strategy
from tts_kernels.tree import Node, SearchTree

Make = Callable[[str, int], Strategy]


class ComputeOptimal(Strategy):
    """Draws a few solutions, takes their mean score for the difficulty, and goes on with the strategy chosen for it
    (Snell et al. 2408.03314, section 3.2).

    The first solutions count: they are a part of the budget, and candidates. choose: from the mean score to the spec of
    a strategy; choices: all that it may choose, where there is only one nothing needs to be drawn before.
    """

    name = "compute-optimal"
    reads_scores = True

    def __init__(
        self, budget: int, probes: int, choose: Callable[[float], str], choices: tuple[str, ...], make: Make
    ) -> None:
        expect(self.name, probes >= 1, "probes", "at least 1", probes)
        made = {spec: make(spec, budget) for spec in choices}
        super().__init__(budget, max(each.max_depth for each in made.values()))
        self.revises = any(each.revises for each in made.values())
        self.reads_answers = any(each.reads_answers for each in made.values())
        self.probes, self.choose, self.made = min(probes, budget), choose, made

    def play(self, tree: SearchTree) -> Play:
        if len(self.made) == 1:
            yield from next(iter(self.made.values())).start(tree)
            return
        yield Decision(expand=[(tree.root, self.probes)], whole=True, keep=True)
        scores = [node.score for node in tree.complete()]
        yield from self.made[self.choose(sum(scores) / len(scores))].start(tree)


class Adaptive(Strategy):
    """Difficulty by a sequential test on the first solutions' scores, strategy by its outcome, an early end where the
    answer is beyond doubt. All of it is a part of the budget.

    Solutions are drawn two at a time. A score s counts as s right and 1 - s wrong ones in Wald's test of the hypotheses
    that a share of ``easy_share`` or of ``hard_share`` is right, both errors ``error``. An easy problem goes on with
    ``easy``, a hard one with ``hard``, and one that is neither after ``probes`` solutions with ``medium``. It ends at
    once when at least ``agree`` solutions have the leading answer and it holds ``lead`` of the weighted vote.
    """

    name = "adaptive"
    reads_scores = True
    reads_answers = True

    def __init__(
        self,
        budget: int,
        make: Make,
        easy: str = "best-of-n",
        medium: str = "beam:width=4",
        hard: str = "rebase",
        probes: int = 8,
        easy_share: float = 0.7,
        hard_share: float = 0.3,
        error: float = 0.1,
        agree: int = 3,
        lead: float = 0.9,
        max_depth: int = 40,
    ) -> None:
        super().__init__(budget, max_depth)
        if not 0 < hard_share < easy_share < 1:
            raise ValueError(f"adaptive: 0 < hard_share < easy_share < 1 must hold, got {hard_share}, {easy_share}")
        expect(self.name, 0 < error < 0.5, "error", "in (0, 0.5)", error)
        for name, value in (("probes", probes), ("agree", agree)):
            expect(self.name, value >= 1, name, "at least 1", value)
        expect(self.name, 0 < lead <= 1, "lead", "in (0, 1]", lead)
        self.made = {name: make(spec, budget) for name, spec in (("easy", easy), ("medium", medium), ("hard", hard))}
        self.revises = any(each.revises for each in self.made.values())
        self.probes, self.agree, self.lead = min(probes, budget), agree, lead
        self.gain = math.log(easy_share / hard_share), math.log((1 - easy_share) / (1 - hard_share))
        self.bound = math.log((1 - error) / error)

    def play(self, tree: SearchTree) -> Play:
        found = "medium"
        while (drawn := list(tree.complete())) or not tree.root.num_children:
            if drawn and self.settled(drawn):
                return
            evidence = sum(node.score * self.gain[0] + (1 - node.score) * self.gain[1] for node in drawn)
            if abs(evidence) >= self.bound:
                found = "easy" if evidence > 0 else "hard"
                break
            if len(drawn) >= self.probes:
                break
            yield Decision(expand=[(tree.root, min(2, self.probes - len(drawn)))], whole=True, keep=True)
        yield from self.made[found].start(tree)

    def settled(self, drawn: list[Node]) -> bool:
        """Whether nothing that may still be found is likely to change the answer."""
        votes: dict[str, list[float]] = {}
        for node in drawn:
            if node.answer is not None:
                votes.setdefault(node.answer, []).append(node.score)
        most = max(votes.values(), key=sum, default=[])
        return len(most) >= self.agree and sum(most) >= self.lead * sum(node.score for node in drawn)
