"""From scored solutions to one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tts_kernels.answers import extract_answer
from tts_kernels.tree import SearchTree, State

Selection = Literal["weighted", "majority", "best"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)


@dataclass(frozen=True)
class Candidate:
    """One complete or cut solution: ``answer`` is canonical, None when the text states none."""

    tokens: list[int]
    text: str
    answer: str | None
    score: float
    log_prob: float
    finished: bool


def collect_candidates(tree: SearchTree, tokenizer: Any = None) -> list[Candidate]:
    """The finished and truncated solutions of a tree; without a tokenizer they have neither text nor answer."""
    candidates = []
    for node in tree.in_state(State.FINISHED, State.TRUNCATED):
        tokens = tree.solution(node)
        text = tokenizer.decode(tokens, skip_special_tokens=True) if tokenizer else ""
        log_prob = sum(part.log_prob for part in tree.lineage(node)[1:])
        finished = node.state is State.FINISHED
        candidates.append(Candidate(tokens, text, extract_answer(text), node.score, log_prob, finished))
    return candidates


def select_answer(candidates: Sequence[Candidate], how: Selection = "weighted") -> str | None:
    """Weighted vote, majority vote, or the answer of the best score, over finished candidates that state an answer.

    Ties go to the answer seen first. None when no candidate qualifies.
    """
    if how not in SELECTIONS:
        raise ValueError(f"select_answer: how must be one of {', '.join(SELECTIONS)}, got {how!r}")
    votes: dict[str, float] = {}
    for candidate in candidates:
        if candidate.finished and candidate.answer is not None:
            before = votes.get(candidate.answer, 0.0)
            if how == "best":
                votes[candidate.answer] = max(before, candidate.score)
            else:
                votes[candidate.answer] = before + (candidate.score if how == "weighted" else 1.0)
    return max(votes, key=lambda answer: votes[answer], default=None)
