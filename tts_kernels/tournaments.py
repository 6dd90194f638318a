"""Selection of an answer by comparisons of two solutions: knockout and league (Chen et al. 2411.19477)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Protocol

import numpy as np

from tts_kernels._checks import expect
from tts_kernels.scorers.generative import Comparison, Judge
from tts_kernels.selection import Candidate, odds
from tts_kernels.tree import SearchTree, child_key

Pair = tuple[Candidate, Candidate]
Compare = Callable[[list[Pair], list[int]], list[float]]
"""Verdicts of pairs, one key each: a comparator's ``compare`` for one question."""


class Comparator(Protocol):
    """Tells which of two solutions is better."""

    def compare(self, question: str, pairs: list[Pair], keys: list[int]) -> list[float]:
        """For every pair 1 where the first one wins, 0 where it loses, 0.5 undecided.

        keys: 64 bits per pair, all that its verdict's randomness depends on. question: the bare problem, "" where it is
        not known as text.
        """


class ScoreComparator:
    """Bradley-Terry on the solutions' scores s: the first wins with probability sigmoid(logit(s1) - logit(s2))."""

    def compare(self, question: str, pairs: list[Pair], keys: list[int]) -> list[float]:
        """Raises ValueError for a score outside [0, 1]."""
        _expect_keys("ScoreComparator", pairs, keys)
        verdicts = []
        for (first, second), key in zip(pairs, keys, strict=True):
            ours, theirs = _odds(first.score), _odds(second.score)
            verdicts.append(float(np.random.default_rng(key).random() < ours / (ours + theirs)))
        return verdicts


def _odds(score: float) -> float:
    expect("ScoreComparator", 0 <= score <= 1, "scores", "in [0, 1]", score)
    return float(odds(score))


class GenerativeComparator(Judge[Comparison]):
    """A causal LM reads the question and both solutions, in random order, and says which is better.

    A comparison that is too long for the model's context is undecided.
    """

    name = "comparator"
    default = Comparison()
    # Comparisons that were too long to be read.
    unread = 0

    def compare(self, question: str, pairs: list[Pair], keys: list[int]) -> list[float]:
        """Raises OutOfPages when the pool is too small for one comparison, ValueError for no question."""
        _expect_keys("GenerativeComparator", pairs, keys)
        expect("GenerativeComparator", bool(question), "question", "given where prompts are token ids", "none")
        swaps, bars = np.array([np.random.default_rng(key).random(2) for key in keys]).reshape(-1, 2).T
        swapped = swaps < 0.5
        # By what the model reads, which is then read once.
        groups: dict[tuple[str, str], list[int]] = {}
        for index, (first, second) in enumerate(pairs):
            texts = (second.text, first.text) if swapped[index] else (first.text, second.text)
            groups.setdefault(texts, []).append(index)
        prompts = {texts: self._prompt(question, *texts) for texts in groups}
        fitting = [texts for texts in groups if len(prompts[texts]) + self.behind <= self.model.context_length]
        order = [index for texts in fitting for index in groups[texts]]
        self.unread += len(pairs) - len(order)
        shares = np.full(len(pairs), np.nan)
        if order:
            with self.attached():
                jobs = [(prompts[texts], [keys[index] for index in groups[texts]]) for texts in fitting]
                shares[order] = self._with_room(jobs).tolist()
        verdicts = _above(shares, 0.5 if self.how.temperature == 0 else bars)
        return np.where(swapped, 1 - verdicts, verdicts).tolist()

    def counters(self) -> dict[str, int]:
        """See ``TreeModel.counters``; ``unread``: comparisons that were too long."""
        return super().counters() | {"unread": self.unread}


def _above(shares: np.ndarray, bars: np.ndarray | float) -> np.ndarray:
    """1 above the bar, 0 below it, 0.5 on it or for NaN."""
    return 0.5 + 0.5 * (shares > bars) - 0.5 * (shares < bars)


def knockout(candidates: Sequence[Candidate], compare: Compare, times: int, key: int) -> int:
    """The index of the candidate that is left after ceil(log2 N) rounds of random pairs.

    A pair is compared ``times`` times; the one with more wins goes on, in a tie either. The odd one out goes on
    unseen. times * (N - 1) comparisons, those of a round at once.
    """
    _expect_players("knockout", candidates)
    _expect_count("knockout", "times", times)
    left, rounds = list(range(len(candidates))), 0
    while len(left) > 1:
        round_key = child_key(key, rounds)
        left = np.random.default_rng(round_key).permutation(left).tolist()
        pairs = list(zip(left[::2], left[1::2], strict=False))
        pair_keys = [child_key(round_key, index) for index in range(len(pairs))]
        games = [pair for pair in pairs for _ in range(times)]
        keys = [child_key(pair_key, turn) for pair_key in pair_keys for turn in range(times)]
        wins = _play("knockout", candidates, compare, games, keys).reshape(-1, times).sum(1)
        coins = [np.random.default_rng(pair_key).random() for pair_key in pair_keys]
        ahead = _above(wins, times / 2)
        winners = [pair[0 if coin < share else 1] for pair, share, coin in zip(pairs, ahead, coins, strict=True)]
        left, rounds = winners + left[2 * len(pairs) :], rounds + 1
    return left[0]


def league(candidates: Sequence[Candidate], opponents: int, compare: Compare, key: int) -> int:
    """The index of the candidate with the largest mean win rate, the first of several.

    Each is compared with ``opponents`` random others, drawn with replacement: N * opponents comparisons, all at once,
    none for one candidate.
    """
    _expect_players("league", candidates)
    _expect_count("league", "opponents", opponents)
    count = len(candidates)
    if count == 1:
        return 0
    games, keys = [], []
    for index in range(count):
        own_key = child_key(key, index)
        others = np.random.default_rng(own_key).integers(0, count - 1, opponents)
        # The places behind its own move up by one.
        games += [(index, other) for other in (others + (others >= index)).tolist()]
        keys += [child_key(own_key, turn) for turn in range(opponents)]
    return int(_play("league", candidates, compare, games, keys).reshape(count, -1).sum(1).argmax())


def _play(
    op: str, candidates: Sequence[Candidate], compare: Compare, games: list[tuple[int, int]], keys: list[int]
) -> np.ndarray:
    """The verdict of every game."""
    verdicts = compare([(candidates[first], candidates[second]) for first, second in games], keys)
    expect(op, len(verdicts) == len(games), "compare", f"a function that gives {len(games)} verdicts", len(verdicts))
    known = set(verdicts) <= {0.0, 0.5, 1.0}
    expect(op, known, "verdicts of compare", "0, 0.5 or 1", sorted(set(verdicts)))
    return np.array(verdicts, np.float64)


def _expect_players(op: str, candidates: Sequence[Candidate]) -> None:
    expect(op, len(candidates) > 0, "candidates", "at least one", "none")


def _expect_count(op: str, name: str, count: int) -> None:
    expect(op, isinstance(count, int) and count > 0, name, "a positive int", count)


def _expect_keys(op: str, pairs: list[Pair], keys: list[int]) -> None:
    expect(op, len(pairs) == len(keys), "keys", f"one for each of {len(pairs)} pairs", len(keys))


class Tournament(ABC):
    """Selects the answer of the solution that wins.

    Finished solutions that state an answer take part, each once whatever its copies. None when there are none.
    """

    comparator: Comparator

    @abstractmethod
    def play(self, candidates: Sequence[Candidate], compare: Compare, key: int) -> int:
        """The index of the winner among candidates, of which there is at least one."""

    def __call__(self, tree: SearchTree, candidates: Sequence[Candidate]) -> str | None:
        players = [candidate for candidate in candidates if candidate.finished and candidate.answer is not None]
        if not players:
            return None
        problem = tree.problem
        question = problem.question or (problem.prompt if isinstance(problem.prompt, str) else "")
        # No child of the root has the index -1, so nothing else is drawn with this key.
        winner = self.play(players, partial(self.comparator.compare, question), child_key(tree.root.key, -1))
        return players[winner].answer


@dataclass(frozen=True)
class Knockout(Tournament):
    """See ``knockout``."""

    times: int = 2
    comparator: Comparator = field(default_factory=ScoreComparator)

    def __post_init__(self) -> None:
        _expect_count("Knockout", "times", self.times)

    def play(self, candidates: Sequence[Candidate], compare: Compare, key: int) -> int:
        return knockout(candidates, compare, self.times, key)


@dataclass(frozen=True)
class League(Tournament):
    """See ``league``."""

    opponents: int = 4
    comparator: Comparator = field(default_factory=ScoreComparator)

    def __post_init__(self) -> None:
        _expect_count("League", "opponents", self.opponents)

    def play(self, candidates: Sequence[Candidate], compare: Compare, key: int) -> int:
        return league(candidates, self.opponents, compare, key)
