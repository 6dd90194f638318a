"""The compute-optimal choice among searches (Snell et al. 2408.03314, section 3.2): which one, for which difficulty.

``fit`` chooses by what was measured, problem by problem; ``SearchPolicy`` keeps the choice; the strategy that carries
it out is ``tts_kernels.strategies.ComputeOptimal``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tts_kernels._checks import expect

# What each strategy got right, 0 or 1: [problems].
Outcomes = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class SearchPolicy:
    """For every budget and bin of difficulty the spec of a strategy (see ``make_strategy``).

    ``edges``: descending mean scores of probed solutions that divide the bins, the first bin being the easiest.
    ``probes``: solutions by which difficulty is estimated. ``choices``: budget -> spec per bin.
    """

    edges: tuple[float, ...]
    probes: int
    choices: dict[int, tuple[str, ...]]

    def __post_init__(self) -> None:
        bins = len(self.edges) + 1
        if list(self.edges) != sorted(self.edges, reverse=True):
            raise ValueError(f"SearchPolicy: edges must descend, got {self.edges}")
        expect("SearchPolicy", self.probes >= 1, "probes", "at least 1", self.probes)
        if not self.choices:
            raise ValueError("SearchPolicy: choices must name at least one budget, got none")
        for budget, specs in self.choices.items():
            if len(specs) != bins:
                raise ValueError(f"SearchPolicy: choices must have {bins} strategies for budget {budget}, got {specs}")

    def spec(self, budget: int, bin: int) -> str:
        """The choice for the largest budget that is no larger, or the smallest there is."""
        known = sorted(self.choices)
        fitting = [each for each in known if each <= budget]
        return self.choices[fitting[-1] if fitting else known[0]][bin]

    def bin_of(self, score: float) -> int:
        """The bin of a problem whose probes have this mean score."""
        return sum(score < edge for edge in self.edges)

    def save(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self), indent=2) + "\n")

    @classmethod
    def load(cls, path: Path) -> SearchPolicy:
        """Raises ValueError for a file that does not hold one."""
        try:
            record: dict[str, Any] = json.loads(path.read_text())
            choices = {int(budget): tuple(specs) for budget, specs in record["choices"].items()}
            return cls(tuple(record["edges"]), int(record["probes"]), choices)
        except (OSError, KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
            raise ValueError(f"SearchPolicy: {path} is no policy: {error!r}") from error


def difficulty_bins(ease: Sequence[float] | np.ndarray, count: int = 5) -> np.ndarray:
    """Quantile bins, int [n], 0 the easiest: as many problems in each as can be, equal ones in their order.

    ease: [n], how easy each problem is: the share of samples that are right (oracle), or their mean score (predicted).
    """
    values = np.asarray(ease, float)
    if values.ndim != 1 or not 1 <= count <= len(values):
        raise ValueError(f"difficulty_bins: ease must have at least count = {count} values, got {values.shape}")
    if np.isnan(values).any():
        raise ValueError(f"difficulty_bins: ease must not be NaN, got NaN for {int(np.isnan(values).argmax())}")
    bins = np.empty(len(values), int)
    bins[np.argsort(-values, kind="stable")] = np.arange(len(values)) * count // len(values)
    return bins


def best(outcomes: Outcomes, chosen: np.ndarray) -> str:
    """The strategy that is right most often on the problems that ``chosen`` marks; the first of equals."""
    return max(outcomes, key=lambda name: outcomes[name][chosen].mean())


def two_fold(outcomes: Outcomes, bins: np.ndarray) -> np.ndarray:
    """What choosing the best strategy of each bin gets right, [n]: each half of a bin by the choice of the other half.

    outcomes: of one budget. Halves are every other problem of a bin. A bin of one problem goes by the choice of all.
    """
    right = np.zeros(len(bins))
    for bin in np.unique(bins):
        members = np.flatnonzero(bins == bin)
        for fold in (members[::2], members[1::2]):
            others = np.setdiff1d(members, fold)
            mask = np.zeros(len(bins), bool)
            mask[others if len(others) else np.arange(len(bins))] = True
            right[fold] = outcomes[best(outcomes, mask)][fold]
    return right


def fit(outcomes: Mapping[int, Outcomes], probed: Sequence[float], probes: int, count: int = 5) -> SearchPolicy:
    """The policy that chooses the best strategy of each budget and bin.

    outcomes: budget -> strategy spec -> right or not [n]. probed: [n], mean score of ``probes`` samples a problem.
    """
    values = np.asarray(probed, float)
    bins = difficulty_bins(values, count)
    edges = tuple(float(values[bins == bin].min()) for bin in range(count - 1))
    choices = {
        budget: tuple(best(each, bins == bin) for bin in range(count)) for budget, each in sorted(outcomes.items())
    }
    return SearchPolicy(edges, probes, choices)
