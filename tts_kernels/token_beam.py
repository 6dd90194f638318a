"""Token-level beam search in a forest, equal to ``generate(num_beams=..., do_sample=False)`` of transformers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, TypeAlias

import numpy as np
import torch
from torch import Tensor

from tts_kernels._checks import expect
from tts_kernels.hf import TreeModel

# The last token and the path before it; None is the prompt.
_Path: TypeAlias = "tuple[_Path, int] | None"
# Keeps length ** penalty finite at every length.
_MOST_PENALTY = 10.0


@dataclass(frozen=True)
class Hypothesis:
    """One ended solution. ``tokens``: the new ones, with the end-of-sequence token if there is one.

    ``score``: the sum of their log-probabilities / len(tokens) ** length_penalty.
    """

    tokens: list[int]
    score: float


@dataclass(frozen=True)
class _Limits:
    num_beams: int
    max_new_tokens: int
    eos_ids: frozenset[int]
    length_penalty: float
    early_stopping: bool | Literal["never"]

    @property
    def num_candidates(self) -> int:
        """So many that ``num_beams`` of them go on, even where every beam ends in every way it can."""
        return max(2, 1 + len(self.eos_ids)) * self.num_beams


@dataclass(slots=True)
class _Beam:
    """A path that goes on. ``token``: its last one, which is not in the pool yet. ``score``: sum of log-probabilities.

    ``node``: where the path up to that token lives, which siblings share until the batch gives each its own.
    """

    node: int
    token: int
    path: _Path
    score: float


class _Search:
    """One prompt under way. ``ended``: scores and paths, best first."""

    def __init__(self, beam: _Beam, limits: _Limits) -> None:
        self.limits = limits
        self.length = 0
        self.beams = [beam]
        self.ended: list[tuple[float, _Path]] = []

    def advance(self, scores: list[float], rows: list[int], tokens: list[int]) -> None:
        """One token more. The candidates come best first: score, index of the beam that goes on, its token.

        The new beams, none when the search is over, keep the order of their parents, so that siblings are neighbours.
        """
        limits = self.limits
        self.length += 1
        last = self.length == limits.max_new_tokens
        running: list[tuple[int, _Beam]] = []
        for rank, (score, row, token) in enumerate(zip(scores, rows, tokens, strict=True)):
            parent = self.beams[row]
            path = (parent.path, token)
            if last or token in limits.eos_ids:
                # The candidates behind are only there in case the first ones end.
                if rank < limits.num_beams:
                    self.ended.append((score / self.length**limits.length_penalty, path))
            elif len(running) < limits.num_beams:
                running.append((row, _Beam(parent.node, token, path, score)))
        self.ended.sort(key=itemgetter(0), reverse=True)
        del self.ended[limits.num_beams :]
        if last or self.is_settled(running[0][1].score):
            self.beams = []
        else:
            self.beams = [beam for _, beam in sorted(running, key=itemgetter(0))]

    def is_settled(self, best: float) -> bool:
        """Whether the running beams, the best of which has score ``best``, have no chance left."""
        limits = self.limits
        if len(self.ended) < limits.num_beams:
            return False
        if limits.early_stopping is True:
            return True
        # A positive penalty favours long solutions: the best a beam can hope for is its score at full length.
        hopeful = limits.early_stopping == "never" and limits.length_penalty > 0
        length = limits.max_new_tokens if hopeful else self.length
        return best / length**limits.length_penalty <= self.ended[-1][0]

    def hypotheses(self, count: int) -> list[Hypothesis]:
        return [Hypothesis(_tokens(path), score) for score, path in self.ended[:count]]


def _tokens(path: _Path) -> list[int]:
    tokens = []
    while path is not None:
        path, token = path
        tokens.append(token)
    return tokens[::-1]


class _Batch:
    """The searches under way and the forest nodes of their beams, which it owns."""

    def __init__(self, model: TreeModel, limits: _Limits) -> None:
        self.model = model
        self.limits = limits
        self.nodes: list[int] = []
        self.searches: list[_Search] = []

    def start(self, prompts: list[np.ndarray]) -> list[_Search]:
        """Feed the prompts, all but the last token of each."""
        roots = self.model.forest.add_roots(len(prompts))
        self.nodes = roots.tolist()
        counts = np.array([len(prompt) - 1 for prompt in prompts], np.int32)
        self.model.hidden(roots, np.concatenate([prompt[:-1] for prompt in prompts]), counts, np.empty(0, np.int64))
        self.searches = [
            _Search(_Beam(root, int(prompt[-1]), None, 0.0), self.limits)
            for root, prompt in zip(self.nodes, prompts, strict=True)
        ]
        return list(self.searches)

    def step(self) -> None:
        """One token for every search."""
        beams = [beam for search in self.searches for beam in search.beams]
        nodes = np.array([beam.node for beam in beams], np.int32)
        logits = self.model.logits(nodes, np.array([beam.token for beam in beams]))
        sums = torch.tensor([beam.score for beam in beams], dtype=torch.float32, device=logits.device)
        best = _best_candidates(logits, sums, len(self.searches), self.limits.num_candidates)
        for search, *candidates in zip(self.searches, *(part.tolist() for part in best), strict=True):
            search.advance(*candidates)
        self.searches = [search for search in self.searches if search.beams]
        self.settle()

    def settle(self) -> None:
        """Give every beam a node of its own and nodes without beams back.

        The only beam of a node stays in it: no page is copied, the tree gets no deeper and the plan may live on.
        """
        beams = [beam for search in self.searches for beam in search.beams]
        widths = Counter(beam.node for beam in beams)
        pool = self.model.pool
        # Neither call is made for nothing: each of them ends the plan.
        if dropped := [node for node in self.nodes if node not in widths]:
            pool.forest.release(np.array(dropped, np.int32))
            self.nodes = list(widths)
        if parents := [node for node, width in widths.items() if width > 1]:
            counts = np.array([widths[node] for node in parents], np.int32)
            children = iter(pool.fork(np.array(parents, np.int32), counts).tolist())
            for beam in beams:
                if widths[beam.node] > 1:
                    beam.node = next(children)
            self.nodes = [beam.node for beam in beams]

    def close(self) -> None:
        self.model.forest.release(np.array(self.nodes, np.int32))


def _best_candidates(logits: Tensor, sums: Tensor, num_prompts: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The continuations with the highest scores among the rows of each prompt, best first.

    logits: [num_prompts * beams, V], sums: float32 [num_prompts * beams], what the rows have so far. Returns scores,
    indices of beams within their prompt and tokens, [num_prompts, count or as many as there are].
    """
    log_probs = torch.log_softmax(logits, -1, dtype=torch.float32)
    # A prompt's best are among the best of its rows, so the sums need not be added to the whole vocabulary.
    best, tokens = log_probs.topk(min(count, log_probs.shape[1]))
    scores = (best + sums[:, None]).view(num_prompts, -1)
    scores, places = scores.topk(min(count, scores.shape[1]))
    return scores, places // best.shape[1], tokens.view(num_prompts, -1).gather(1, places)


def token_beam_search(
    model: TreeModel,
    prompts: Sequence[Sequence[int]],
    *,
    num_beams: int,
    max_new_tokens: int,
    eos_ids: Iterable[int],
    num_return_sequences: int = 1,
    length_penalty: float = 1.0,
    early_stopping: bool | Literal["never"] = False,
) -> list[list[Hypothesis]]:
    """The ``num_return_sequences`` best solutions of each prompt, best first, as transformers' ``generate`` has them.

    All prompts grow together, one model call per token; one that is done leaves. One beam is greedy decoding.
    early_stopping: when a prompt with ``num_beams`` solutions is done. True: at once. False: when the best beam, were
    it to end now, would be no better than the last of them. "never": nor if it grew to ``max_new_tokens`` at no cost.

    Logits processors do not apply. Solutions below -1e9, which ``generate`` takes for empty places, are kept.
    Raises ValueError and TypeError for bad input, OutOfPages when the pool is full; all pages are given back.
    """
    limits = _checked_limits(model, num_beams, max_new_tokens, eos_ids, length_penalty, early_stopping)
    _expect_count("num_return_sequences", num_return_sequences, num_beams, "num_beams")
    checked = _checked_prompts(model, prompts, max_new_tokens)
    if not checked:
        return []
    batch = _Batch(model, limits)
    with model.attached():
        try:
            searches = batch.start(checked)
            while batch.searches:
                batch.step()
        finally:
            batch.close()
    return [search.hypotheses(num_return_sequences) for search in searches]


def _expect(ok: bool, argument: str, wanted: str, got: object) -> None:
    expect("token_beam_search", ok, argument, wanted, got)


def _expect_count(argument: str, value: object, most: int | None = None, why: str = "") -> None:
    ok = isinstance(value, int) and not isinstance(value, bool) and value >= 1 and (most is None or value <= most)
    _expect(ok, argument, "a positive int" if most is None else f"an int in [1, {most}], {why}", repr(value))


def _vocab_size(model: TreeModel) -> int:
    return model.model.get_output_embeddings().weight.shape[0]


def _checked_limits(
    model: TreeModel,
    num_beams: int,
    max_new_tokens: int,
    eos_ids: Iterable[int],
    length_penalty: float,
    early_stopping: bool | Literal["never"],
) -> _Limits:
    if not isinstance(model, TreeModel):
        raise TypeError(f"token_beam_search: model must be a TreeModel, got {type(model).__name__}")
    vocab_size = _vocab_size(model)
    ids = frozenset(_integers("eos_ids", eos_ids, vocab_size).tolist())
    _expect_count("num_beams", num_beams, vocab_size - len(ids), "the tokens that do not end a solution")
    _expect_count("max_new_tokens", max_new_tokens)
    is_number = isinstance(length_penalty, (int, float)) and abs(length_penalty) <= _MOST_PENALTY
    wanted = f"a number in [{-_MOST_PENALTY}, {_MOST_PENALTY}]"
    _expect(is_number, "length_penalty", wanted, repr(length_penalty))
    is_rule = isinstance(early_stopping, bool) or early_stopping == "never"
    _expect(is_rule, "early_stopping", "True, False or 'never'", repr(early_stopping))
    # One beam has nothing to wait for: its first solution is the greedy one.
    return _Limits(num_beams, max_new_tokens, ids, length_penalty, early_stopping if num_beams > 1 else True)


def _checked_prompts(model: TreeModel, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[np.ndarray]:
    if not isinstance(prompts, Iterable):
        raise TypeError(f"token_beam_search: prompts must be a list of lists of token ids, got {prompts!r}")
    checked = []
    for index, prompt in enumerate(prompts):
        name = f"prompts[{index}]"
        tokens = _integers(name, prompt, _vocab_size(model))
        _expect(len(tokens) > 0, name, "at least one token", "none")
        wanted = f"with max_new_tokens at most {model.context_length} tokens long, the model's context"
        length = len(tokens) + max_new_tokens
        _expect(length <= model.context_length, name, wanted, length)
        checked.append(tokens)
    return checked


def _integers(argument: str, values: Iterable[int], vocab_size: int) -> np.ndarray:
    """The token ids as int64 [n]."""
    try:
        array = np.array(list(values))
    except (TypeError, ValueError):
        # No iterable, or one of lists of different lengths.
        array = np.array(None)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise TypeError(f"token_beam_search: {argument} must be a list of token ids, got {values!r}")
    outside = array[(array < 0) | (array >= vocab_size)].tolist()
    _expect(not outside, argument, f"token ids in [0, {vocab_size})", outside[:1])
    return array.astype(np.int64)
