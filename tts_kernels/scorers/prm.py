"""Reward models read at the end of every step, evaluated incrementally over their own pages."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tts_kernels import _ext
from tts_kernels.backends import Backend
from tts_kernels.hf import TreeModel, attended, context_length, kv_layout
from tts_kernels.kv_pool import KVLayout
from tts_kernels.ops.score_steps import score_steps
from tts_kernels.scorers.base import AGGREGATES, Aggregate, PathTooLong, Scores, Spent
from tts_kernels.scorers.heads import ScoreHead, vocabulary_rows
from tts_kernels.scorers.memo import Entry, Feed, Job, Memo, feeds_of
from tts_kernels.scorers.reader import InlineReader, Reader
from tts_kernels.scorers.steps import PolicySide
from tts_kernels.tree import Node, SearchTree

Batch = list[tuple[SearchTree, Node]]


class Prm:
    """A reward model: hidden states at the judged places, a head of a few rows, scores aggregated along the path.

    model: any causal model of transformers; its own head is never run. reader: makes the reader once the policy is
    known. kv_bytes or num_pages: a pool of its own; without, it shares the policy's memory.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        head: ScoreHead,
        reader: Callable[[PolicySide], Reader],
        *,
        aggregate: Aggregate = "last",
        backend: Backend | None = None,
        page_size: int = 16,
        **pool: Any,
    ) -> None:
        if aggregate not in AGGREGATES:
            raise ValueError(f"Prm: aggregate must be one of {', '.join(AGGREGATES)}, got {aggregate!r}")
        self.backbone: PreTrainedModel = model.base_model  # type: ignore[assignment]
        self.head = head
        self.aggregate: Aggregate = aggregate
        self.backend = backend
        self._make_reader = reader
        self._layout = kv_layout(self.backbone, page_size)
        self._own: TreeModel | None = None
        if pool:
            self._own = TreeModel(self.backbone, page_size=page_size, backend=backend, **pool)
        self._out_of_pages: type[Exception] = _ext.host().OutOfPages
        # Per problem: node id -> what was read up to there.
        self._entries: dict[str, dict[int, Entry]] = {}
        self._spent: dict[str, Spent] = {}

    @classmethod
    def inline(cls, model: PreTrainedModel, *, good_id: int, bad_id: int, tag_id: int, **options: Any) -> Prm:
        """A causal LM that reads the policy's own tokens: P(good) against bad at the token that ends each step, or at
        ``tag_id`` put behind a step that a limit cut short."""
        vocab_size = model.config.get_text_config().vocab_size
        for name, token in (("good_id", good_id), ("bad_id", bad_id), ("tag_id", tag_id)):
            if not 0 <= token < vocab_size:
                raise ValueError(f"Prm: {name} must be in [0, {vocab_size}), got {token}")
        return cls(model, vocabulary_rows(model, [good_id, bad_id]), lambda _: InlineReader(tag_id), **options)

    # --- the policy's side

    @property
    def context_length(self) -> int:
        return context_length(self.backbone)

    @property
    def bounded(self) -> bool:
        return self.head.bounded

    @property
    def kv_layout(self) -> KVLayout | None:
        return None if self._own else self._layout

    def bind(self, policy: PolicySide) -> None:
        if self._entries:
            raise RuntimeError("Prm: a search is under way; a scorer serves one decoder at a time")
        model = self._own or TreeModel(self.backbone, pool=policy.pool, backend=self.backend)
        if model.pool.pages.device != self.backbone.device:
            raise ValueError(
                f"Prm: the reward model must be on {model.pool.pages.device} to share the policy's memory, got "
                f"{self.backbone.device}; give it kv_bytes of its own"
            )
        self.reader = self._make_reader(policy)
        self.model = model
        self.memo = Memo(model)
        self.whole_path_tokens = 0

    def attached(self) -> AbstractContextManager[None]:
        return self.model.attached()

    # --- problems come and go

    def add(self, trees: list[SearchTree]) -> None:
        entries = [Entry(self.reader.root(tree), uses=1) for tree in trees]
        for tree, entry in zip(trees, entries, strict=True):
            self._check_length(tree, len(entry.stream.ids))
        nodes, *_ = self.memo.feed([Feed(None, entry.stream.ids, []) for entry in entries])
        for tree, entry, node in zip(trees, entries, nodes, strict=True):
            entry.kv = node
            self._entries[tree.problem_id] = {0: entry}
            self._spent[tree.problem_id] = Spent()
            self._charge(tree, 0, len(entry.stream.ids))

    def adopt(self, tree: SearchTree, node: Node, twin: Node) -> None:
        known = self._entries[tree.problem_id]
        known[node.id] = known[twin.id]
        known[node.id].uses += 1

    def spent(self, tree: SearchTree) -> Spent:
        return self._spent[tree.problem_id]

    def _charge(self, tree: SearchTree, begin: int, tokens: int) -> None:
        """Tokens were read from position ``begin`` of a path on."""
        before = self._spent[tree.problem_id]
        flops = self.model.cost(tokens, attended(tokens, begin))
        kv_bytes = self.model.pool.layout.token_bytes * tokens
        self._spent[tree.problem_id] = Spent(before.tokens + tokens, before.flops + flops, before.kv_bytes + kv_bytes)

    def release(self, tree: SearchTree, nodes: list[Node]) -> None:
        known = self._entries[tree.problem_id]
        self._leave(known.pop(node.id) for node in nodes)

    def drop(self, tree: SearchTree) -> None:
        self._leave(self._entries.pop(tree.problem_id, {}).values())
        self._spent.pop(tree.problem_id, None)

    def _leave(self, entries: Iterable[Entry]) -> None:
        left = list(entries)
        for entry in left:
            entry.uses -= 1
        self.memo.give_up(entry for entry in left if entry.uses == 0)

    def spill(self) -> bool:
        """Give up the pages of the problem that came last; they are computed again when it is scored next."""
        if self._own is not None:
            return False
        return any(self._spill(problem) for problem in reversed(self._entries))

    def _spill(self, problem_id: str) -> bool:
        return self.memo.spill(self._entries[problem_id].values())

    # --- scoring

    def score(self, batch: Batch) -> Scores:
        """As many problems at once as there is room for: the pages of the others are given up meanwhile."""
        try:
            return self._score(batch)
        except self._out_of_pages:
            here = list(dict.fromkeys(tree.problem_id for tree, _ in batch))
            others = [problem for problem in self._entries if problem not in here]
            if any([self._spill(problem) for problem in others]):
                return self.score(batch)
            if len(here) == 1:
                raise
            return self._score_in_turns(batch, set(here[: len(here) // 2]))

    def _score_in_turns(self, batch: Batch, first: set[str]) -> Scores:
        early = [index for index, (tree, _) in enumerate(batch) if tree.problem_id in first]
        late = [index for index, (tree, _) in enumerate(batch) if tree.problem_id not in first]
        done = self.score([batch[index] for index in early])
        try:
            more = self.score([batch[index] for index in late])
        except BaseException:
            for index in early:
                tree, node = batch[index]
                self.release(tree, [node])
            raise
        order = torch.tensor(early + late, device=done.paths.device).argsort()

        def write() -> None:
            done.write()
            more.write()

        return Scores(torch.cat([done.paths, more.paths])[order], write)

    def _score(self, batch: Batch) -> Scores:
        parents = [self._entries[tree.problem_id][tree.scored_behind(node).id] for tree, node in batch]
        items = [(parent.stream, tree, node) for parent, (tree, node) in zip(parents, batch, strict=True)]
        jobs: dict[Any, Job] = {}
        keys, whole = [], 0
        for parent, (tree, node), reading in zip(parents, batch, self.reader.read(items), strict=True):
            longest = [len(place) for place in reading.places if isinstance(place, list)]
            self._check_length(tree, max([len(reading.stream.ids) + len(reading.tail), *longest]))
            whole += len(reading.stream.ids) + len(reading.tail)
            keys.append((parent, tuple(reading.stream.ids), tuple(reading.tail), len(reading.places)))
            jobs.setdefault(keys[-1], Job(tree, reading, parent)).nodes.append(node)
        scores = self._judge(list(jobs.values()))
        self.whole_path_tokens += whole
        for key, (tree, node) in zip(keys, batch, strict=True):
            entry = jobs[key].entry
            assert entry is not None
            entry.uses += 1
            self._entries[tree.problem_id][node.id] = entry
        index = {key: place for place, key in enumerate(jobs)}
        places = torch.tensor([index[key] for key in keys], device=scores.paths.device)
        return Scores(scores.paths[places], scores.write)

    def _judge(self, jobs: list[Job]) -> Scores:
        """Read every job's new tokens and score its steps."""
        feeds, alone, charges, again = [], [], [], 0
        for job in jobs:
            job.entry, feed, detours = feeds_of(job)
            again += max(0, len(job.parent.stream.ids) - feed.begin) if feed else 0
            new = [feed] if feed else []
            feeds += new
            alone += detours
            charges += [(job.tree, each.begin, len(each.tokens)) for each in [*new, *detours]]
        fed = [job for job in jobs if job.entry is not job.parent]
        nodes, hidden, where = self.memo.feed(feeds)
        self.memo.truncate(nodes, [len(job.reading.tail) for job in fed])
        try:
            others, detoured, where_alone = self.memo.feed(alone) if alone else ([], hidden[:0], [])
        except BaseException:
            self.model.forest.release(nodes)
            raise
        self.model.forest.release(others)
        self.memo.recomputed_tokens += again
        for charge in charges:
            self._charge(*charge)
        for job, node in zip(fed, nodes, strict=True):
            job.entry.kv = node  # type: ignore[union-attr]
        straight, apart = iter(where), (len(hidden) + place for place in where_alone)
        rows = [next(apart if isinstance(place, list) else straight) for job in jobs for place in job.reading.places]
        return self._scores(jobs, torch.cat([hidden, detoured]) if alone else hidden, rows)

    def _scores(self, jobs: list[Job], hidden: Tensor, rows: list[int]) -> Scores:
        firsts = [job.nodes[0] for job in jobs]
        offsets = [0]
        for job in jobs:
            offsets.append(offsets[-1] + len(job.reading.places))

        def on_device(values: Any, dtype: torch.dtype) -> Tensor:
            return torch.tensor(values, dtype=dtype, device=hidden.device)

        steps, paths = score_steps(
            self.head.features(hidden),
            on_device(rows, torch.int32),
            on_device(offsets, torch.int32),
            self.head.weight,
            self.head.bias,
            head=self.head.activation,
            positive=self.head.positive,
            aggregate="last" if self.aggregate == "model" else self.aggregate,
            prior=on_device([node.score for node in firsts], torch.float32),
            prior_steps=on_device([node.num_steps for node in firsts], torch.int32),
            backend=self.backend,
        )

        def write() -> None:
            values, totals = steps.tolist(), paths.tolist()
            for index, job in enumerate(jobs):
                for node in job.nodes:
                    node.step_scores = values[offsets[index] : offsets[index + 1]]
                    node.num_steps += len(node.step_scores)
                    node.score = totals[index]

        return Scores(paths, write)

    # --- books

    def _check_length(self, tree: SearchTree, length: int) -> None:
        if length > self.context_length:
            raise PathTooLong(
                tree, f"the reward model's context is {self.context_length} tokens, the path has {length} of them"
            )

    def counters(self) -> dict[str, int]:
        """As of the model, and ``whole_path_tokens``: what reading every node's path whole would have taken."""
        return self.model.counters() | {
            "spilled_pages": self.memo.spilled_pages,
            "recomputed_tokens": self.memo.recomputed_tokens,
            "whole_path_tokens": self.whole_path_tokens,
        }

    def check(self) -> None:
        """Raise RuntimeError when the forest and our books disagree."""
        self.model.forest.check()
        uses: dict[Entry, int] = {}
        for known in self._entries.values():
            for entry in known.values():
                uses[entry] = uses.get(entry, 0) + 1
        wrong = [entry for entry, count in uses.items() if entry.uses != count]
        held = sum(entry.kv is not None for entry in uses)
        if wrong or held != self.model.forest.num_held:
            forest = self.model.forest.num_held
            raise RuntimeError(f"Prm: {len(wrong)} entries miscounted, {held} held, {forest} in the forest")
