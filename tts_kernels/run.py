"""The only generation loop: many searches in one forest, one packed model call per token for all of them."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch

from tts_kernels import _ext
from tts_kernels.answers import same_answer
from tts_kernels.ops.sample_children import sample_children
from tts_kernels.search import Problem, RunStats, Sampling, SearchResult, SearchStats
from tts_kernels.selection import Selection, collect_candidates, select_answer
from tts_kernels.strategies import Decision, Strategy
from tts_kernels.tree import Node, SearchTree, State

if TYPE_CHECKING:
    from tts_kernels.decoder import Decoder

T = TypeVar("T")


@dataclass(eq=False)
class _Search:
    """One problem under way. ``kv``: forest node of every tree node that may still be expanded.

    The last token of a node is never in the pool: it is fed when the node is expanded, together with its siblings'.
    """

    problem: Problem
    tree: SearchTree
    stats: SearchStats
    kv: dict[int, int] = field(default_factory=dict)
    alive: bool = True


@dataclass(eq=False)
class _Row:
    """One node that is growing: its forest node and the state of its separator automaton."""

    search: _Search
    node: Node
    kv: int
    whole: bool = False
    detector_state: int = 0


class Run:
    """One call of Decoder.search: who is in the forest, and the rounds they play."""

    def __init__(
        self, decoder: Decoder, strategy: Strategy, sampling: Sampling, select: Selection, stats: RunStats
    ) -> None:
        self.decoder = decoder
        self.policy = decoder.policy
        self.scorer = decoder.scorer
        self.strategy = strategy
        self.sampling = sampling
        self.select: Selection = select
        self.stats = stats
        self.waiting: deque[tuple[Problem, list[int], int]] = deque()
        self.active: list[_Search] = []
        self.failed: list[SearchResult] = []
        self.out_of_pages: type[Exception] = _ext.host().OutOfPages
        self.ended: list[_Row] = []
        # How many problems may run at once. Where pages run short the limit falls, and rises as problems finish.
        self.limit = self.most_active = max(1, decoder.max_rows // strategy.budget)
        self.max_length = min(self.policy.context_length, self.scorer.context_length - 1)
        self.before = (self.policy.counters(), self.scorer.counters())

    def tokenize(self, problem: Problem) -> list[int]:
        prompt = problem.prompt
        if isinstance(prompt, str):
            if self.decoder.tokenizer is None:
                raise ValueError(f"problem {problem.id!r}: prompt must be token ids without a tokenizer, got text")
            prompt = self.decoder.tokenizer.encode(prompt)
        if not len(prompt):
            raise ValueError(f"problem {problem.id!r}: the prompt must not be empty")
        if len(prompt) >= self.policy.context_length:
            raise ValueError(
                f"problem {problem.id!r}: the prompt must be shorter than the model's context of "
                f"{self.policy.context_length} tokens, got {len(prompt)}"
            )
        return list(prompt)

    def results(self, problems: list[tuple[Problem, list[int]]]) -> Iterator[SearchResult]:
        self.waiting.extend((problem, prompt, 0) for problem, prompt in problems)
        begin = time.perf_counter()
        with self.policy.attached(), self.scorer.attached():
            try:
                while self.waiting or self.active:
                    self.admit()
                    done = self.play_round()
                    self.update_stats(time.perf_counter() - begin)
                    yield from done
            finally:
                for search in self.active:
                    self.leave(search)

    # --- who is in the forest

    def admit(self) -> None:
        """Let waiting problems in, first come first served: all the prompts that fit are fed together."""
        joining: list[_Search] = []
        while self.waiting and len(self.active) + len(joining) < self.most_active:
            problem, prompt, restarts = self.waiting.popleft()
            tree = SearchTree(problem.id, prompt, self.sampling.seed)
            joining.append(_Search(problem, tree, SearchStats(restarts=restarts)))
        while joining:
            try:
                self.prefill(joining)
                self.active += joining
                return
            except self.out_of_pages as error:
                last = joining.pop()
                if joining or self.active:
                    self.waiting.appendleft((last.problem, last.tree.root.tokens, last.stats.restarts))
                    self.most_active = max(1, len(self.active) + len(joining))
                else:
                    self.failed.append(self.result(last, str(error)))

    def prefill(self, searches: list[_Search]) -> None:
        """Feed the prompts, all but the last token of each; on OutOfPages nothing is left behind."""
        forest = self.policy.forest
        roots = forest.add_roots(len(searches))
        prompts = [search.tree.root.tokens[:-1] for search in searches]
        counts = np.array([len(prompt) for prompt in prompts], np.int32)
        try:
            self.policy.hidden(roots, np.concatenate(prompts), counts, np.empty(0, np.int64))
            self.scorer.add([search.tree for search in searches])
        except BaseException:
            forest.release(roots)
            raise
        for search, root, count in zip(searches, roots.tolist(), counts.tolist(), strict=True):
            search.kv[0] = root
            search.stats.prompt_tokens += count

    def leave(self, search: _Search) -> None:
        """Give back everything the search holds."""
        search.alive = False
        self.active.remove(search)
        self.policy.forest.release(np.array(list(search.kv.values()), np.int32))
        search.kv.clear()
        self.scorer.drop(search.tree)

    def with_room(self, rows: list[_Row], primitive: Callable[[list[_Row]], T]) -> tuple[list[_Row], T | None]:
        """Run an all-or-nothing primitive; while pages are short, put off the problem that came last."""
        while rows := [row for row in rows if row.search.alive]:
            try:
                return rows, primitive(rows)
            except self.out_of_pages as error:
                victim = self.active[-1]
                self.leave(victim)
                if self.active:
                    self.most_active = len(self.active)
                    self.waiting.appendleft((victim.problem, victim.tree.root.tokens, victim.stats.restarts + 1))
                else:
                    self.failed.append(self.result(victim, str(error)))
        return [], None

    # --- one round: every active problem makes one move

    def play_round(self) -> list[SearchResult]:
        decisions = [(search, self.strategy.decide(search.tree)) for search in self.active]
        done = []
        for search, decision in decisions:
            self.prune(search, decision.release)
            if not decision.expand:
                done.append(self.result(search))
                self.leave(search)
        self.most_active = min(self.most_active + len(done), self.limit)
        self.grow(self.expand([pair for pair in decisions if pair[1].expand]))
        self.judge()
        done += self.failed
        self.failed = []
        return done

    def prune(self, search: _Search, nodes: list[Node]) -> None:
        self.policy.forest.release(np.array([search.kv.pop(node.id) for node in nodes], np.int32))
        self.scorer.release(search.tree, nodes)
        for node in nodes:
            node.state = State.PRUNED

    def expand(self, decisions: list[tuple[_Search, Decision]]) -> list[_Row]:
        """Feed the last token of every node to be expanded, draw the first tokens of all its children, fork."""
        parents, widths = [], {}
        for search, decision in decisions:
            # Depth-first order lets neighbours in the tree share their prefix in the plan.
            for node, width in sorted(decision.expand, key=lambda pair: pair[0].path):
                row = _Row(search, node, search.kv[node.id], whole=decision.whole)
                parents.append(row)
                widths[row] = width
        parents, logits = self.with_room(parents, self.feed_last)
        if logits is None:
            return []
        fed = list(parents)

        def fork(rows: list[_Row]) -> np.ndarray:
            counts = np.array([widths[row] for row in rows], np.int32)
            return self.policy.pool.fork(np.array([row.kv for row in rows], np.int32), counts)

        parents, forked = self.with_room(parents, fork)
        if forked is None:
            return []
        alive = [index for index, row in enumerate(fed) if row.search.alive]
        tokens, log_probs = self.draw(parents, logits[alive], [widths[row] for row in parents])
        for row in parents:
            row.search.stats.tokens += 1
        children = []
        kvs = iter(forked.tolist())
        for row in parents:
            del row.search.kv[row.node.id]
            row.search.stats.rounds = max(row.search.stats.rounds, row.node.depth + 1)
            for child in row.search.tree.add_children(row.node, widths[row]):
                kv = row.search.kv[child.id] = next(kvs)
                children.append(_Row(row.search, child, kv, whole=row.whole))
        return self.take(children, tokens, log_probs)

    def feed_last(self, rows: list[_Row]) -> torch.Tensor:
        nodes = np.array([row.kv for row in rows], np.int32)
        return self.policy.logits(nodes, np.array([row.node.tokens[-1] for row in rows]))

    def draw(self, rows: list[_Row], logits: torch.Tensor, widths: list[int]) -> tuple[list[int], list[float]]:
        """One token per child, at random as the key of the node that draws and the token's place in the path say."""
        device, s = logits.device, self.sampling
        tokens, log_probs = sample_children(
            logits,
            torch.tensor([row.node.signed_key for row in rows], dtype=torch.int64, device=device),
            torch.tensor([row.node.end for row in rows], dtype=torch.int32, device=device),
            torch.tensor(widths, dtype=torch.int32, device=device),
            temperature=s.temperature,
            top_k=s.top_k,
            top_p=s.top_p,
            min_p=s.min_p,
            distinct=s.distinct and max(widths) > 1,
            total=sum(widths),
            backend=self.decoder.backend,
        )
        return tokens.tolist(), log_probs.tolist()

    def take(self, rows: list[_Row], tokens: list[int], log_probs: list[float]) -> list[_Row]:
        """Give every row its token. Returns the rows that go on growing; the others await their judgement."""
        before = np.array([row.detector_state for row in rows], np.int16)
        after = self.decoder.detector.advance(before, np.array(tokens)).tolist()
        growing: list[_Row] = []
        for row, token, log_prob, state in zip(rows, tokens, log_probs, after, strict=True):
            row.node.tokens.append(token)
            row.node.log_prob += log_prob
            row.detector_state = state
            (self.ended if self.ends(row, token) else growing).append(row)
        return growing

    def ends(self, row: _Row, token: int) -> bool:
        """Close the row's step where it ends, and the node where its step or solution does."""
        node, sampling = row.node, self.sampling
        separated = row.detector_state == self.decoder.detector.final
        longest = min(len(row.search.tree.root.tokens) + sampling.max_tokens, self.max_length)
        if token in self.decoder.eos_ids:
            node.state = State.FINISHED
        elif node.end >= longest:
            node.state = State.TRUNCATED
            node.cut = not separated
        elif separated and not row.whole and node.depth >= self.strategy.max_depth:
            node.state = State.TRUNCATED
        elif not row.whole and not separated and len(node.tokens) >= sampling.max_step_tokens:
            node.cut = True
        elif row.whole or not separated:
            if separated:
                node.step_ends.append(len(node.tokens))
            return False
        node.step_ends.append(len(node.tokens))
        return True

    def grow(self, rows: list[_Row]) -> None:
        """One token per call and row until every row has ended its step."""
        while rows:
            rows, logits = self.with_room(rows, self.feed_last)
            if logits is None:
                return
            tokens, log_probs = self.draw(rows, logits, [1] * len(rows))
            for row in rows:
                row.search.stats.tokens += 1
            rows = self.take(rows, tokens, log_probs)

    def judge(self) -> None:
        """Score the nodes that ended; their parents, and those that ended for good, need no KV any more."""
        # A solution's order in the tree, not the moment it ended, decides who comes first in a tie.
        order = {search: rank for rank, search in enumerate(self.active)}
        ended = [row for row in self.ended if row.search.alive]
        ended.sort(key=lambda row: (order[row.search], row.node.path))
        self.ended = []
        rows, _ = self.with_room(ended, lambda rows: self.scorer.score([(row.search.tree, row.node) for row in rows]))
        for row in rows:
            tree, node = row.search.tree, row.node
            if node.state is not State.OPEN:
                self.policy.forest.release(np.array([row.search.kv.pop(node.id)], np.int32))
                self.scorer.release(tree, [node])
        parents = {(row.search, row.node.parent): None for row in rows}
        for search, parent in parents:
            self.scorer.release(search.tree, [search.tree.nodes[parent]])

    # --- results

    def result(self, search: _Search, error: str | None = None) -> SearchResult:
        tree = search.tree
        candidates = collect_candidates(tree, self.decoder.tokenizer)
        answer = None if error else select_answer(candidates, self.select)
        expected = search.problem.answer
        correct = None if expected is None or error else same_answer(answer, expected)
        return SearchResult(search.problem, answer, correct, candidates, tree, search.stats, error)

    def update_stats(self, seconds: float) -> None:
        self.stats.seconds = seconds
        now = (self.policy.counters(), self.scorer.counters())
        self.stats.policy, self.stats.scorer = (
            {key: value if key == "peak_pages" else value - old.get(key, 0) for key, value in new.items()}
            for old, new in zip(self.before, now, strict=True)
        )
