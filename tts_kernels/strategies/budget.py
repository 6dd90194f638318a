"""Budgets in generations, tokens or FLOPs, and what a strategy can do for them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

from tts_kernels._checks import expect
from tts_kernels.strategies.base import Decision, Play, Strategy
from tts_kernels.tree import SearchTree

Unit = Literal["generations", "tokens", "flops"]
# Solutions that are drawn to learn what one costs.
PROBES = 2


@dataclass(frozen=True)
class Budget:
    """What a search of one problem may spend: complete solutions, drawn tokens, or FLOPs of both models."""

    amount: float
    unit: Unit = "generations"

    def __post_init__(self) -> None:
        units = get_args(Unit)
        expect("Budget", self.unit in units, "unit", f"one of {', '.join(units)}", repr(self.unit))
        expect("Budget", 1 <= self.amount < float("inf"), "amount", "finite and at least 1", self.amount)
        whole = self.unit != "generations" or self.amount == int(self.amount)
        expect("Budget", whole, "amount", "a whole number of generations", self.amount)

    @classmethod
    def parse(cls, text: str | int) -> Budget:
        """``16``, ``"20000 tokens"``, ``"3e12 flops"``. Raises ValueError for anything else."""
        found = re.fullmatch(r"\s*(\d+\.?\d*(?:[eE]\+?\d+)?)\s*(|tokens|flops)\s*", str(text))
        if found is None:
            raise ValueError(f"budget must be a number, alone or with 'tokens' or 'flops' behind it, got {text!r}")
        return cls(float(found[1]), found[2] or "generations")  # type: ignore[arg-type]


class Fitted(Strategy):
    """A strategy as large as a limit in tokens or FLOPs allows, which it never exceeds.

    Two complete solutions tell what one costs; they stay candidates and count as a part of the strategy's budget.
    A search that turns out to be more expensive is ended by its limit, with the solutions it has then.
    make: the strategy of a given number of generations, ValueError where it does not come in that size.
    """

    limit: Budget
    reads_scores = True

    def __init__(self, make: Callable[[int], Strategy], limit: Budget) -> None:
        smallest = make(next(size for size in range(1, 1025) if _made(make, size)))
        self.name, self.revises, self.reads_answers = smallest.name, smallest.revises, smallest.reads_answers
        # How many rows it will have is not known yet: a guess, for how many problems run at once.
        super().__init__(16, smallest.max_depth)
        self.make, self.limit = make, limit

    def play(self, tree: SearchTree) -> Play:
        yield Decision(expand=[(tree.root, PROBES)], whole=True, keep=True)
        longest = max(len(tree.solution(node)) for node in tree.nodes[1:])
        stats = tree.stats
        spent = stats.tokens if self.limit.unit == "tokens" else stats.policy_flops + stats.scorer_flops
        # As if both had been as long as the longer one.
        each = spent / stats.tokens * longest
        room = (self.limit.amount - spent) / each
        for size in range(PROBES + int(room), PROBES, -1):
            strategy = _made(self.make, size)
            if strategy is not None and (size - PROBES) * strategy.overhead <= room:
                yield from strategy.start(tree)
                return


def _made(make: Callable[[int], Strategy], size: int) -> Strategy | None:
    try:
        return make(size)
    except ValueError:
        return None
