"""What ``bench_search.py`` has left: accuracies with error bars, difficulty bins, the compute-optimal choice."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from bench_search import RUNS, Cell, plan, read_rows

from tts_kernels.compute_optimal import difficulty_bins, two_fold

BINS = 5
RESAMPLES = 2000
# How an answer is chosen: the searches vote by the product of step scores.
VOTE = "weighted-prod"


@dataclass(frozen=True)
class Estimate:
    """A mean over problems and its 95 % interval by bootstrap."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Estimate:
        """values: [problems], or differences of two systems on the same problems."""
        rng = np.random.default_rng(0)
        means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(1)
        low, high = np.quantile(means, (0.025, 0.975))
        return cls(float(values.mean()), float(low), float(high))


class Results:
    """All complete cells, on the problems that every one of them has."""

    def __init__(self, runs: Path = RUNS, least: int = 50) -> None:
        found: dict[Cell, dict[str, dict[str, Any]]] = {}
        for cell in plan():
            rows = {row["id"]: row for row in read_rows(runs / f"{cell.name}.jsonl") if not row["error"]}
            if len(rows) >= least:
                found[cell] = rows
        if not found:
            raise ValueError(f"{runs}: holds no complete cell; run bench_search.py first")
        self.ids = sorted(set.intersection(*(set(rows) for rows in found.values())))
        self.cells = {cell: [rows[id] for id in self.ids] for cell, rows in found.items()}

    def __contains__(self, cell: Cell) -> bool:
        return cell in self.cells

    def right(self, cell: Cell, select: str = VOTE) -> np.ndarray:
        """0 or 1, [problems]."""
        if select == "pass":
            return np.array([np.mean(row["solutions"]) if row["solutions"] else 0.0 for row in self.cells[cell]])
        return np.array([row["right"][select] for row in self.cells[cell]], float)

    def mean(self, cell: Cell, *names: str) -> float:
        return float(np.mean([sum(row[name] for name in names) for row in self.cells[cell]]))

    def flops(self, cell: Cell) -> float:
        return self.mean(cell, "policy_flops", "scorer_flops")

    def curve(self, strategy: str, **fields: Any) -> list[Cell]:
        """The cells of a strategy, by budget."""
        wanted = [cell for cell in self.cells if cell == Cell(strategy, cell.budget, **fields)]
        return sorted(wanted, key=lambda cell: cell.budget)

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """256 solutions of every problem that nothing else uses."""
        return self.cells[Cell("best-of-n", 256, seed=1)]

    @cached_property
    def oracle(self) -> np.ndarray:
        """Difficulty bins by the share of samples that are right, 0 the easiest."""
        return difficulty_bins([float(np.mean(row["solutions"])) for row in self.samples], BINS)

    @cached_property
    def scores(self) -> np.ndarray:
        """Mean final score of the samples, [problems]."""
        return np.array([row["mean_final"] for row in self.samples])

    @cached_property
    def predicted(self) -> np.ndarray:
        """Difficulty bins by the mean score of the samples."""
        return difficulty_bins(self.scores, BINS)

    def outcomes(self, budget: int) -> dict[str, np.ndarray]:
        """What the strategies among which the compute-optimal one is chosen get right at this budget."""
        cells = [cell for cell in self.cells if cell == Cell(cell.strategy, budget)]
        return {
            cell.strategy: self.right(cell) for cell in cells if not cell.strategy.startswith(("greedy", "adaptive"))
        }

    @property
    def budgets(self) -> list[int]:
        """Those at which there is something to choose."""
        return [cell.budget for cell in self.curve("best-of-n") if len(self.outcomes(cell.budget)) > 1]

    def optimal(self, budget: int, bins: np.ndarray) -> np.ndarray:
        return two_fold(self.outcomes(budget), bins)


def sampling_at(results: Results, flops: float) -> np.ndarray:
    """What weighted best-of-N gets right for so many FLOPs, between its two neighbours by the logarithm, [problems]."""
    cells = results.curve("best-of-n")
    costs = np.log([results.flops(cell) for cell in cells])
    place = float(np.interp(np.log(flops), costs, np.arange(len(cells))))
    low, share = int(place), place - int(place)
    high = min(low + 1, len(cells) - 1)
    return (1 - share) * results.right(cells[low]) + share * results.right(cells[high])
