"""From scored solutions to one answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from tts_kernels.answers import extract_answer
from tts_kernels.tree import SearchTree, State

Selection = Literal["weighted", "majority", "best", "hierarchical"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)


@dataclass(frozen=True)
class Candidate:
    """One complete or cut solution: ``answer`` is canonical, None when the text states none.

    ``copies``: how often it counts in a vote. ``chain``: of revisions, that it belongs to.
    """

    tokens: list[int]
    text: str
    answer: str | None
    score: float
    log_prob: float
    finished: bool
    copies: int = 1
    chain: int | None = None


def collect_candidates(tree: SearchTree, tokenizer: Any = None) -> list[Candidate]:
    """The finished and truncated solutions of a tree; without a tokenizer they have neither text nor answer."""
    candidates = []
    for node in tree.in_state(State.FINISHED, State.TRUNCATED):
        tokens = tree.solution(node)
        text = tokenizer.decode(tokens, skip_special_tokens=True) if tokenizer else ""
        log_prob = sum(part.log_prob for part in tree.solution_nodes(node))
        finished = node.state is State.FINISHED
        answer = extract_answer(text)
        candidates.append(Candidate(tokens, text, answer, node.score, log_prob, finished, node.copies, node.chain))
    return candidates


def select_answer(candidates: Sequence[Candidate], how: Selection = "weighted") -> str | None:
    """Weighted vote, majority vote, or the answer of the best score, over finished candidates that state an answer.

    "hierarchical" (Snell et al. 2408.03314, appendix): in each chain of revisions the best solution that has the
    answer of the chain's weighted vote, then a weighted vote among these.
    Ties go to the answer seen first. None when no candidate qualifies.
    """
    if how not in SELECTIONS:
        raise ValueError(f"select_answer: how must be one of {', '.join(SELECTIONS)}, got {how!r}")
    counted = [candidate for candidate in candidates if candidate.finished and candidate.answer is not None]
    if how == "hierarchical":
        chains: dict[int | None, list[Candidate]] = {}
        for candidate in counted:
            chains.setdefault(candidate.chain, []).append(candidate)
        counted = [_best_of_winners(chain) for chain in chains.values()]
    votes: dict[str, float] = {}
    for candidate in counted:
        assert candidate.answer is not None
        before = votes.get(candidate.answer, 0.0)
        if how == "best":
            votes[candidate.answer] = max(before, candidate.score) if candidate.answer in votes else candidate.score
        else:
            votes[candidate.answer] = before + candidate.copies * (1.0 if how == "majority" else candidate.score)
    return max(votes, key=lambda answer: votes[answer], default=None)


def _best_of_winners(chain: list[Candidate]) -> Candidate:
    winner = select_answer(chain, "weighted")
    return max((each for each in chain if each.answer == winner), key=lambda each: each.score)
