"""From scored solutions to one answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, get_args

import numpy as np

from tts_kernels.answers import extract_answer
from tts_kernels.tree import SearchTree, State

Selection = Literal["weighted", "majority", "best", "hierarchical", "guarded"]
SELECTIONS: tuple[Selection, ...] = get_args(Selection)


@dataclass(frozen=True)
class Candidate:
    """One complete or cut solution: ``answer`` is canonical, None when the text states none.

    ``copies``: how often it counts in a vote. ``chain``: of revisions, that it belongs to. ``num_steps``: how many
    steps it takes; ``repeats``: its last one says what an earlier one did.
    """

    tokens: list[int]
    text: str
    answer: str | None
    score: float
    log_prob: float
    finished: bool
    copies: int = 1
    chain: int | None = None
    num_steps: int = 0
    repeats: bool = False


def collect_candidates(tree: SearchTree, tokenizer: Any = None) -> list[Candidate]:
    """The finished and truncated solutions of a tree; without a tokenizer they have neither text nor answer."""
    candidates = []
    for node in tree.complete():
        parts = tree.solution_nodes(node)
        tokens = [token for part in parts for token in part.tokens]
        text = tokenizer.decode(tokens, skip_special_tokens=True) if tokenizer else ""
        log_prob = sum(part.log_prob for part in parts)
        finished = node.state is State.FINISHED
        # Without what ends a step, which is another token at the end of a solution.
        steps = [step[:-1] for part in parts for step in tree.steps(part) if step[:-1]]
        repeats = steps[-1:] != [] and steps[-1] in steps[:-1]
        of_vote = (node.score, log_prob, finished, node.copies, node.chain)
        candidates.append(Candidate(tokens, text, extract_answer(text), *of_vote, len(steps), repeats))
    return candidates


def odds(scores: np.ndarray | float) -> np.ndarray:
    """Scores in [0, 1] against what they lack, taken no closer to either end than 1e-7."""
    clipped = np.clip(scores, 1e-7, 1 - 1e-7)
    return clipped / (1 - clipped)


# A way of choosing that is not one of the named ones: the answer, or None.
Selector = Callable[[SearchTree, Sequence[Candidate]], str | None]


def select_answer(candidates: Sequence[Candidate], how: Selection = "weighted") -> str | None:
    """Weighted vote, majority vote, or the answer of the best score, over finished candidates that state an answer.

    "hierarchical" (Snell et al. 2408.03314, appendix): in each chain of revisions the best solution that has the
    answer of the chain's weighted vote, then a weighted vote among these.
    "guarded" is "best" for a scorer that a search may have learned to please: solutions that repeat a step at their
    end, or have less than half of the usual number of steps, are left out where others remain; and a best one whose
    answer no other solution shares yields to the weighted vote.
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
    if how == "guarded" and counted:
        counted = _sound(counted)
        answers = [candidate.answer for candidate in counted for _ in range(candidate.copies)]
        top = max(counted, key=lambda candidate: candidate.score)
        how = "best" if answers.count(top.answer) > 1 else "weighted"
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


def _sound(candidates: list[Candidate]) -> list[Candidate]:
    usual = median(candidate.num_steps for candidate in candidates)
    sound = [each for each in candidates if not each.repeats and 2 * each.num_steps >= usual]
    return sound or candidates
