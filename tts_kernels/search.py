"""What goes into a search and what comes out of it."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from tts_kernels.selection import Candidate
from tts_kernels.tree import Problem, SearchTree

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
class SearchStats:
    """What one problem's search cost.

    ``generations``: how many steps were drawn at the place of a solution where most were, which is the number of
    solutions that best-of-N draws for the same. ``tokens``: drawn, those of pruned nodes and ``rollout_tokens``
    included; ``reused_tokens``: of nodes that took over a rollout's, not drawn. ``fed_tokens``: read by the policy,
    the prompt included; ``scorer_tokens``: by the reward model. FLOPs are 2 per parameter and token (Kaplan et al.
    2001.08361) and those of attention. ``kv_bytes``: keys and values made by both models, those of a shared prefix
    once. ``seconds``: from the moment the problem joined the others. ``wasted_tokens``: drawn ahead of the decision and
    of no use, charged to nobody. ``limited``: the search was ended by its limit.
    """

    generations: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    rollout_tokens: int = 0
    reused_tokens: int = 0
    wasted_tokens: int = 0
    fed_tokens: int = 0
    scorer_tokens: int = 0
    policy_flops: int = 0
    scorer_flops: int = 0
    kv_bytes: int = 0
    seconds: float = 0.0
    rounds: int = 0
    restarts: int = 0
    limited: bool = False


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
