"""What goes into a search and what comes out of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tts_kernels.selection import Candidate
from tts_kernels.tree import Problem, SearchStats, SearchTree

__all__ = ["Problem", "RunStats", "Sampling", "SearchResult", "SearchStats"]


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn, and how many.

    ``distinct``: siblings start with different tokens. ``max_step_tokens`` and ``max_tokens``: limits on one step and
    on a whole solution. ``seed``: with the problem's id and a node's place in the tree, all that randomness depends on.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    distinct: bool = False
    max_step_tokens: int = 256
    max_tokens: int = 2048
    seed: int = 0

    def __post_init__(self) -> None:
        limits = {
            "temperature": (self.temperature, 0.0, math.inf),
            "top_k": (self.top_k, 0, math.inf),
            "top_p": (self.top_p, 1e-9, 1.0),
            "min_p": (self.min_p, 0.0, 1.0),
            "max_step_tokens": (self.max_step_tokens, 1, math.inf),
            "max_tokens": (self.max_tokens, 1, math.inf),
        }
        for name, (value, low, high) in limits.items():
            # A NaN fails both comparisons.
            if not low <= value <= high or value == math.inf:
                raise ValueError(f"Sampling: {name} must be in [{low}, {high}], got {value}")


@dataclass
class SearchResult:
    """``answer``: the selected one, canonical. ``correct``: None when the problem came without an answer.

    ``error``: why there is no result, e.g. that the problem alone does not fit into the pool.
    """

    problem: Problem
    answer: str | None
    correct: bool | None
    candidates: list[Candidate]
    tree: SearchTree
    stats: SearchStats
    error: str | None = None

    def to_json(self) -> dict[str, Any]:
        """A JSON object, without the tree and the candidates' tokens."""
        return {
            "id": self.problem.id,
            "answer": self.answer,
            "expected": self.problem.answer,
            "correct": self.correct,
            "error": self.error,
            "candidates": [
                {key: value for key, value in asdict(candidate).items() if key != "tokens"}
                for candidate in self.candidates
            ],
            "stats": asdict(self.stats),
        }


@dataclass
class RunStats:
    """What a whole run cost, over all problems.

    ``policy`` and ``scorer``: see ``TreeModel.counters``; a scorer without a model has none. ``seconds``: wall time.
    """

    policy: dict[str, int] = field(default_factory=dict)
    scorer: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
