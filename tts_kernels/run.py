"""The only generation loop: many searches in one forest, one packed model call per token for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from tts_kernels.admission import Admission, Row, Search
from tts_kernels.ops.sample_children import sample_children
from tts_kernels.scorers import Scores
from tts_kernels.search import Problem, RunStats, Sampling, SearchResult
from tts_kernels.selection import Selection
from tts_kernels.strategies import Allocation, Decision, Strategy, allocate
from tts_kernels.tree import Node, State

if TYPE_CHECKING:
    from tts_kernels.decoder import Decoder


class Run(Admission):
    """One call of Decoder.search: the rounds that the problems play."""

    def __init__(
        self, decoder: Decoder, strategy: Strategy, sampling: Sampling, select: Selection, stats: RunStats
    ) -> None:
        super().__init__(decoder, strategy, sampling, select)
        self.strategy = strategy
        self.stats = stats
        self.ended: list[Row] = []
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
                for search in list(self.active):
                    self.leave(search)

    # --- one round: every active problem makes one move

    def play_round(self) -> list[SearchResult]:
        self.decide([search for search in self.active if search.decision is None])
        moves = [(search, search.decision) for search in self.active if search.decision]
        done = []
        for search, decision in moves:
            search.decision = None
            self.prune(search, decision.release)
            if not decision.expand:
                done.append(self.result(search))
                self.leave(search)
        self.most_active = min(self.most_active + len(done), self.limit)
        self.grow(self.expand([pair for pair in moves if pair[1].expand]))
        self.judge()
        done += self.failed
        self.failed = []
        return done

    def prune(self, search: Search, nodes: list[Node]) -> None:
        self.policy.forest.release(np.array([search.kv.pop(node.id) for node in nodes], np.int32))
        self.scorer.release(search.tree, nodes)
        for node in nodes:
            node.state = State.PRUNED

    def expand(self, decisions: list[tuple[Search, Decision]]) -> list[Row]:
        """Feed the last token of every node to be expanded, draw the first tokens of all its children, fork."""
        parents, widths = [], {}
        for search, decision in decisions:
            # Depth-first order lets neighbours in the tree share their prefix in the plan.
            for node, width in sorted(decision.expand, key=lambda pair: pair[0].path):
                row = Row(search, node, search.kv[node.id], whole=decision.whole)
                parents.append(row)
                widths[row] = width
        parents, logits = self.with_room(parents, self.feed_last)
        if logits is None:
            return []
        fed = list(parents)

        def fork(rows: list[Row]) -> np.ndarray:
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
                children.append(Row(row.search, child, kv, whole=row.whole))
        return self.take(children, tokens, log_probs)

    def feed_last(self, rows: list[Row]) -> torch.Tensor:
        nodes = np.array([row.kv for row in rows], np.int32)
        return self.policy.logits(nodes, np.array([row.node.tokens[-1] for row in rows]))

    def draw(self, rows: list[Row], logits: torch.Tensor, widths: list[int]) -> tuple[list[int], list[float]]:
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

    def take(self, rows: list[Row], tokens: list[int], log_probs: list[float]) -> list[Row]:
        """Give every row its token. Returns the rows that go on growing; the others await their judgement."""
        before = np.array([row.detector_state for row in rows], np.int16)
        after = self.decoder.detector.advance(before, np.array(tokens)).tolist()
        growing: list[Row] = []
        for row, token, log_prob, state in zip(rows, tokens, log_probs, after, strict=True):
            row.node.tokens.append(token)
            row.node.log_prob += log_prob
            row.detector_state = state
            (self.ended if self.ends(row, token) else growing).append(row)
        return growing

    def ends(self, row: Row, token: int) -> bool:
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

    def grow(self, rows: list[Row]) -> None:
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
        """Score the nodes that ended. Their parents need no KV of the scorer any more; those that ended for good need
        none at all, of the policy's not even for their judgement, which may need the room."""
        # A solution's order in the tree, not the moment it ended, decides who comes first in a tie.
        order = {search: rank for rank, search in enumerate(self.active)}
        ended = [row for row in self.ended if row.search.alive]
        ended.sort(key=lambda row: (order[row.search], row.node.path))
        self.ended = []
        final = [row for row in ended if row.node.state is not State.OPEN]
        self.policy.forest.release(np.array([row.search.kv.pop(row.node.id) for row in final], np.int32))
        rows, scores = self.scored(ended)
        if scores is None:
            return
        # Where scores are only compared, the decision is made on their device before they are waited for.
        if self.strategy.reads_scores:
            scores.write()
            self.decide(self.active)
        else:
            self.decide(self.active, rows, scores)
        for row in final:
            if row.search.alive:
                self.scorer.release(row.search.tree, [row.node])
        parents = {(row.search, row.node.parent): None for row in rows}
        for search, parent in parents:
            self.scorer.release(search.tree, [search.tree.nodes[parent]])

    def decide(self, searches: list[Search], rows: Sequence[Row] = (), scores: Scores | None = None) -> None:
        """The next move of each search. ``scores``: of the nodes of ``rows``, not written into them yet."""
        moves = [(search, self.strategy.decide(search.tree)) for search in searches]
        allocations = [move for _, move in moves if isinstance(move, Allocation)]
        widths = allocate(self.strategy, allocations, [row.node for row in rows], scores, self.decoder.backend)
        if scores is not None:
            scores.write()
        settled = iter(widths)
        for search, move in moves:
            search.decision = next(settled) if isinstance(move, Allocation) else move

    def update_stats(self, seconds: float) -> None:
        self.stats.seconds = seconds
        now = (self.policy.counters(), self.scorer.counters())
        self.stats.policy, self.stats.scorer = (
            {key: value if key == "peak_pages" else value - old.get(key, 0) for key, value in new.items()}
            for old, new in zip(self.before, now, strict=True)
        )
