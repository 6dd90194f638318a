"""Things timed in turns, so that a machine that is busy with something else slows all of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from statistics import median

# Shorter calls are timed several at once.
SHORTEST = 5e-4
# Of what is too slow for all rounds.
FEWEST_ROUNDS = 3

Run = Callable[[], object]


@dataclass(frozen=True)
class Times:
    """Seconds of one call, by round; of what is slow the first rounds only."""

    seconds: dict[str, list[float]]

    def median(self, name: str) -> float:
        return median(self.seconds[name])

    def quantile(self, name: str, fraction: float) -> float:
        ordered = sorted(self.seconds[name])
        return ordered[int(fraction * (len(ordered) - 1))]

    def ratio(self, name: str, over: str) -> float:
        """Median over the rounds that both have of the first's seconds over the second's."""
        return median(a / b for a, b in zip(self.seconds[name], self.seconds[over], strict=False))


def seconds_of(run: Run, calls: int = 1) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls


def paired(runs: dict[str, Run], rounds: int = 15, limit: float = 1.0) -> Times:
    """Time each run once a round, each round in another order, so that none always comes behind the same one; none for
    much more than ``limit`` seconds in all, unless so many calls as give a median take longer.
    """
    for run in runs.values():
        run()
    first = {name: seconds_of(run) for name, run in runs.items()}
    calls = {name: max(1, int(SHORTEST / spent)) for name, spent in first.items()}
    turns = {name: min(rounds, max(FEWEST_ROUNDS, int(limit / spent))) for name, spent in first.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    order = Random(0)
    for index in range(max(turns.values())):
        for name in order.sample(list(runs), len(runs)):
            if index < turns[name]:
                times[name].append(seconds_of(runs[name], calls[name]))
    return Times(times)
