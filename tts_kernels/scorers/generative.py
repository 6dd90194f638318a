"""A causal LM that judges in words: generative verification of solutions (GenRM, Zhang et al. 2408.15240)."""

from __future__ import annotations

import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tts_kernels import _ext
from tts_kernels.hf import TreeModel
from tts_kernels.ops.sample_children import sample_children
from tts_kernels.ops.score_steps import score_steps
from tts_kernels.scorers.base import HostScorer, PathTooLong, Scores
from tts_kernels.scorers.checkpoint import Checkpoint
from tts_kernels.scorers.heads import causal, vocabulary_rows
from tts_kernels.scorers.reader import common
from tts_kernels.scorers.steps import PolicySide
from tts_kernels.tree import Node, SearchTree, State, child_key

if TYPE_CHECKING:
    from typing import Self

_SLOT = re.compile(r"\{(\w+)\}")
# A prompt, and the key of each of its chains.
_Job = tuple[list[int], list[int]]


def _check(how: Verification | Comparison, **least: float) -> None:
    """Raise ValueError for an option below its least value, or a template that lacks a slot."""
    name, template = type(how).__name__, how.template
    for option, value in least.items():
        if not getattr(how, option) >= value:
            raise ValueError(f"{name}: {option} must be at least {value}, got {getattr(how, option)}")
    if not {*how.slots} <= {*_SLOT.findall(template)}:
        slots = " and ".join(f"{{{slot}}}" for slot in how.slots)
        raise ValueError(f"{name}: template must have {slots}, got {template!r}")


@dataclass(frozen=True)
class Verification:
    """How a solution is judged.

    ``chains``: of thought, sampled at ``temperature`` up to an end-of-sequence token or ``max_tokens``; with 0 the
    model answers at once. ``template``: the prompt, a user turn where the tokenizer has a chat template. ``ask``: read
    behind every chain. ``words``: its good and bad answer, one token each. ``partial``: whether open solutions are
    judged too, else they keep the score of their parent.
    """

    chains: int = 1
    temperature: float = 0.7
    max_tokens: int = 512
    template: str = "Problem:\n{question}\n\nSolution:\n{solution}\n\nCheck this solution line by line. Is it right?\n"
    ask: str = "\nIs the answer correct (Yes/No)? "
    words: tuple[str, str] = ("Yes", "No")
    partial: bool = False
    slots: ClassVar = ("question", "solution")

    def __post_init__(self) -> None:
        _check(self, chains=0, temperature=0, max_tokens=1)

    @property
    def most_tokens(self) -> int:
        return self.max_tokens if self.chains else 0


@dataclass(frozen=True)
class Comparison:
    """How two solutions are compared.

    ``temperature`` and ``max_tokens``: of the chain of thought, which ends with an end-of-sequence token at the latest;
    with ``max_tokens`` 0 the model answers at once. At temperature 0 the likelier word is the verdict, else one is
    drawn. ``template``, ``ask`` and ``words``, of which the first is for ``first``: as of ``Verification``.
    """

    temperature: float = 0.7
    max_tokens: int = 512
    template: str = (
        "Problem:\n{question}\n\nSolution A:\n{first}\n\nSolution B:\n{second}\n\n"
        "Check both solutions line by line. Which of them is right?\n"
    )
    ask: str = "\nWhich solution is better (A/B)? "
    words: tuple[str, str] = ("A", "B")
    slots: ClassVar = ("question", "first", "second")

    def __post_init__(self) -> None:
        _check(self, temperature=0, max_tokens=0)

    @property
    def most_tokens(self) -> int:
        return self.max_tokens


How = TypeVar("How", bound="Verification | Comparison")


class Judge(Generic[How]):
    """A causal LM that reads prompts, writes chains of thought behind them and ends each with one of two words.

    max_rows: chains that are written at once. pool: options of its own TreeModel, as kv_bytes or num_pages; its pages
    are empty between calls.
    """

    name: str
    default: How

    def __init__(
        self, model: PreTrainedModel, tokenizer: Any, how: How | None = None, max_rows: int = 1024, **pool: Any
    ) -> None:
        self.how: How = how or self.default
        self.tokenizer = tokenizer
        self.ask, words = _ask_and_words(type(self).__name__, tokenizer, self.how)
        self.head = vocabulary_rows(model, words)
        eos_ids = (model.generation_config or model.config).eos_token_id
        self.eos_ids = {tokenizer.eos_token_id, *(eos_ids if isinstance(eos_ids, list) else [eos_ids])}
        self.model = TreeModel(model, **pool)
        self.max_rows = max(1, max_rows)
        self.behind = self.how.most_tokens + len(self.ask)
        # The longest solution, were the policy's tokens the judge's; others may come to more.
        self.context_length = self.model.context_length - self.behind - len(self._prompt(*[""] * len(self.how.slots)))
        if self.context_length < 1:
            most, got = self.model.context_length, self.model.context_length - self.context_length
            name = type(self).__name__
            raise ValueError(f"{name}: template, max_tokens and ask must be < {most} tokens, got {got}")

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        how: How | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Self:
        """A folder, or a model of the hub, with its tokenizer. options: as for the class."""
        checkpoint = Checkpoint(cls.name, path, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
        return cls(causal(checkpoint), checkpoint.tokenizer, how, **options)

    def attached(self) -> AbstractContextManager[None]:
        return self.model.attached()

    def counters(self) -> dict[str, int]:
        return self.model.counters()

    def _prompt(self, *texts: str) -> list[int]:
        """The template with a text in each of its slots."""
        filled = dict(zip(self.how.slots, texts, strict=True))
        text = _SLOT.sub(lambda slot: filled.get(slot[1], slot[0]), self.how.template)
        if not getattr(self.tokenizer, "chat_template", None):
            return self.tokenizer.encode(text)
        turns = [{"role": "user", "content": text}]
        return self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)

    def _with_room(self, jobs: list[_Job]) -> Tensor:
        """P(first word) of every job's chains, as many at once as there is room for."""
        rows = sum(len(keys) for _, keys in jobs)
        try:
            if rows <= self.max_rows:
                return self._judge(jobs)
        except _ext.host().OutOfPages:
            if rows == 1:
                raise
        return torch.cat([self._with_room(half) for half in _halves(jobs)])

    def _judge(self, jobs: list[_Job]) -> Tensor:
        """P(first word) of every chain, float32. Leaves nothing in the pool."""
        leaves = self.model.forest.add_roots(len(jobs))
        try:
            self._read(leaves, [prompt[:-1] for prompt, _ in jobs])
            # Every chain reads the prompt's last token itself, as does the one that stays empty where there are none.
            leaves = self.model.pool.fork(leaves, np.array([len(keys) for _, keys in jobs], np.int32))
            hidden = self._read(leaves, [rest + self.ask for rest in self._think(leaves, jobs)])
        finally:
            self.model.forest.release(leaves)
        rows = torch.arange(len(leaves) + 1, dtype=torch.int32, device=hidden.device)
        values, _ = score_steps(hidden, rows[:-1], rows, self.head.weight, self.head.bias, backend=self.model.backend)
        return values

    def _read(self, leaves: np.ndarray, tokens: list[list[int]]) -> Tensor:
        """Feed ``tokens[i]`` to leaf i. Returns the hidden state at the last of them."""
        counts = np.array([len(each) for each in tokens], np.int32)
        packed = np.array([token for each in tokens for token in each], np.int64)
        return self.model.hidden(leaves, packed, counts, counts.cumsum() - 1)

    def _think(self, leaves: np.ndarray, jobs: list[_Job]) -> list[list[int]]:
        """Write every chain to its end, one token per call. Returns what of each was not read yet."""
        device, chains = self.model.model.device, [(prompt, key) for prompt, keys in jobs for key in keys]
        keys = torch.from_numpy(np.array([key for _, key in chains], np.uint64).view(np.int64)).to(device)
        ends = torch.tensor([len(prompt) for prompt, _ in chains], dtype=torch.int32, device=device)
        unread = [prompt[-1:] for prompt, _ in chains]
        draw = partial(sample_children, temperature=self.how.temperature, backend=self.model.backend)
        for count in range(self.how.most_tokens):
            rows = [row for row, rest in enumerate(unread) if rest]
            if not rows:
                break
            logits = self.model.logits(leaves[rows], np.array([unread[row][0] for row in rows]))
            tokens, _ = draw(logits, keys[rows], ends[rows] + count, torch.ones_like(ends[rows]), total=len(rows))
            for row, token in zip(rows, tokens.tolist(), strict=True):
                unread[row] = [] if token in self.eos_ids else [token]
        return unread


class GenerativeVerifier(Judge[Verification], HostScorer):
    """Score of a solution: P(good word) against the bad one behind a chain of thought, the mean over the chains."""

    name = "genrm"
    default = Verification()

    @property
    def width(self) -> int:
        return max(1, self.how.chains)

    def bind(self, policy: PolicySide) -> None:
        if policy.tokenizer is None:
            raise ValueError("GenerativeVerifier: the decoder must have the policy's tokenizer, got none")
        super().bind(policy)

    def score(self, batch: list[tuple[SearchTree, Node]]) -> Scores:
        """Raises OutOfPages when the pool is too small for one node."""
        judged = [i for i, (_, node) in enumerate(batch) if self.how.partial or node.state is not State.OPEN]
        jobs = [self._job(*batch[index]) for index in judged]
        paths = torch.tensor([node.score for _, node in batch], dtype=torch.float32, device=self.model.model.device)
        if jobs:
            paths[judged] = self._with_room(jobs).view(-1, self.width).mean(1)

        def write() -> None:
            for index, value in zip(judged, paths[judged].tolist(), strict=True):
                node = batch[index][1]
                node.score, node.step_scores, node.num_steps = value, [value], node.num_steps + 1

        return Scores(paths, write)

    def _job(self, tree: SearchTree, node: Node) -> _Job:
        tokens = [token for token in tree.solution(node) if token not in self.policy.eos_ids]
        solution = self.policy.tokenizer.decode(tokens, skip_special_tokens=True)
        prompt = self._prompt(self.policy.question(tree), solution)
        length, most = len(prompt) + self.behind, self.model.context_length
        if length > most:
            raise PathTooLong(tree, f"the verifier's context is {most} tokens, the path may need {length} of them")
        # Indices below 0 give keys that no child of the node has.
        return prompt, [child_key(node.key, -1 - chain) for chain in range(self.width)]


def _halves(jobs: list[_Job]) -> tuple[list[_Job], list[_Job]]:
    """The chains of one prompt part last, as it is then read twice."""
    if len(jobs) > 1:
        half = len(jobs) // 2
        return jobs[:half], jobs[half:]
    prompt, keys = jobs[0]
    half = len(keys) // 2
    return [(prompt, keys[:half])], [(prompt, keys[half:])]


def _ask_and_words(judge: str, tokenizer: Any, how: Verification | Comparison) -> tuple[list[int], list[int]]:
    """The tokens of the question, and of the two words behind it. A space between may belong to the words' tokens."""
    question, good, bad = (tokenizer.encode(how.ask + word, add_special_tokens=False) for word in ("", *how.words))
    ask = good[: common(good, bad)]
    for word, ids in zip(how.words, (good, bad), strict=True):
        if len(ids) != len(ask) + 1 or not 0 < len(ask) <= len(question):
            got = tokenizer.convert_ids_to_tokens(ids[min(len(ask), len(question)) :])
            raise ValueError(f"{judge}: {word!r} of words must be one token behind {how.ask!r}, got {got}")
    return ask, [good[-1], bad[-1]]
