"""The only generation loop: many searches in one forest, one packed model call per token for all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from tts_kernels.admission import Expansion, Row, Search
from tts_kernels.answers import extract_answer
from tts_kernels.branching import Branching, Given
from tts_kernels.scorers import Scores
from tts_kernels.search import Problem, RunStats, Sampling, SearchResult
from tts_kernels.selection import Selection, Selector
from tts_kernels.strategies import Decision, Strategy, allocate, settle
from tts_kernels.tree import Node, SearchTree, State

if TYPE_CHECKING:
    from tts_kernels.decoder import Decoder


class Run(Branching):
    """One call of Decoder.search: the rounds that the problems play."""

    def __init__(
        self,
        decoder: Decoder,
        strategy: Strategy,
        sampling: Sampling,
        select: Selection | Selector,
        stats: RunStats,
    ) -> None:
        super().__init__(decoder, strategy, sampling, select)
        self.stats = stats
        self.ended: list[Row] = []
        self.adopted: list[Row] = []
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
            if decision.over:
                done.append(self.result(search))
                self.leave(search)
            else:
                self.prune(search, decision.release)
                for node in decision.discard:
                    node.state = State.PRUNED
        self.most_active = min(self.most_active + len(done), self.limit)
        moves = [(search, decision) for search, decision in moves if search.alive]
        self.give([Given(search, *pair) for search, decision in moves for pair in decision.given])
        self.grow(self.expand([each for search, decision in moves for each in _expansions(search, decision)]))
        self.judge()
        for search in self.active:
            self.sweep(search)
        done += self.failed
        self.failed = []
        return done

    def prune(self, search: Search, nodes: list[Node]) -> None:
        for node in nodes:
            self.claim(search, node.id, ())
        self.policy.forest.release(np.array([search.kv.pop(node.id) for node in nodes], np.int32))
        given_up = [node for node in nodes if node.state is State.OPEN]
        self.scorer.release(search.tree, given_up)
        for node in given_up:
            node.state = State.PRUNED

    def sweep(self, search: Search) -> None:
        """Give up the rollouts that no open node has before it."""
        tree = search.tree
        gone = {id for id in search.kv if tree.nodes[id].rollout}
        if not gone or search.stopped:
            return
        for node in tree.in_state(State.OPEN):
            gone -= {part.id for part in tree.rollout(node)} | {node.twin}
        self.policy.forest.release(np.array([search.kv.pop(id) for id in gone], np.int32))
        self.scorer.release(tree, [tree.nodes[id] for id in gone])

    def judge(self) -> None:
        """Score the nodes that ended. Their parents need no KV of the scorer any more; those that ended for good need
        none at all, of the policy's not even for their judgement, which may need the room."""
        # A solution's order in the tree, not the moment it ended, decides who comes first in a tie.
        order = {search: rank for rank, search in enumerate(self.active)}
        ended = [row for row in self.ended if row.search.alive]
        ended.sort(key=lambda row: (order[row.search], row.node.path))
        self.ended = []
        final = [row for row in ended if row.node.ended and not row.node.rollout]
        if not self.strategy.revises:
            self.policy.forest.release(np.array([row.search.kv.pop(row.node.id) for row in final], np.int32))
        if self.strategy.reads_answers:
            for row in (row for row in [*final, *self.adopted] if row.node.ended):
                text = self.decoder.tokenizer.decode(row.search.tree.solution(row.node), skip_special_tokens=True)
                row.node.answer = extract_answer(text)
        rows, scores = self.scored(ended)
        for search in self.active:
            search.meter.scored(search.tree)
        if scores is not None:
            # Where scores are only compared, the decision is made on their device before they are waited for.
            if self.strategy.reads_scores:
                scores.write()
                self.decide(self.active)
            else:
                self.decide(self.active, rows, scores)
        for row in [*final, *self.adopted]:
            if row.search.alive and row.node.ended:
                self.scorer.release(row.search.tree, [row.node])
        bases = {(row.search, row.search.tree.scored_behind(row.node).id): None for row in [*rows, *self.adopted]}
        self.adopted = []
        for search, base in bases:
            if search.alive and base not in search.kv and not (self.strategy.revises and base == 0):
                self.scorer.release(search.tree, [search.tree.nodes[base]])

    def decide(self, searches: list[Search], rows: Sequence[Row] = (), scores: Scores | None = None) -> None:
        """The next move of each search. ``scores``: of the nodes of ``rows``, not written into them yet."""
        moves = [(search, self.next_move(search)) for search in searches]
        allocations = [each for _, move in moves for each in move.share]
        widths = iter(allocate(allocations, [row.node for row in rows], scores, self.decoder.backend))
        if scores is not None:
            scores.write()
        for search, move in moves:
            search.decision = settle(move, [next(widths) for _ in move.share])

    def next_move(self, search: Search) -> Decision:
        """What the strategy does next, once the rollouts are there that it waits for."""
        while not search.stopped:
            if search.looking is None:
                move = next(search.moves, Decision())
                if not move.look:
                    return move
                search.looking = move
            if _ends_of_rollouts(search.tree, search.looking):
                return search.looking
            for node in search.looking.look:
                chain = search.tree.rollout(node)[: search.looking.ahead]
                node.foresight = chain[-1].score if chain else None
            search.looking = None
        return Decision()

    def update_stats(self, seconds: float) -> None:
        self.stats.seconds = seconds
        now = (self.policy.counters(), self.scorer.counters())
        self.stats.policy, self.stats.scorer = (
            {key: value if key == "peak_pages" else value - old.get(key, 0) for key, value in new.items()}
            for old, new in zip(self.before, now, strict=True)
        )


def _expansions(search: Search, decision: Decision) -> list[Expansion]:
    # Depth-first order lets neighbours in the tree share their prefix in the plan.
    wanted = [
        Expansion(search, node, width, search.kv[node.id], decision.whole, decision.keep)
        for node, width in sorted(decision.expand, key=lambda pair: pair[0].path)
        if width
    ]
    for node in _ends_of_rollouts(search.tree, decision):
        wanted.append(Expansion(search, node, decision.width, search.kv[node.id], greedy=True))
    return wanted


def _ends_of_rollouts(tree: SearchTree, decision: Decision) -> list[Node]:
    """The last node of every rollout that is to grow, once where nodes share it."""
    ends = {}
    for node in decision.look:
        chain = tree.rollout(node)
        last = chain[-1] if chain else node if node.twin is None else tree.nodes[node.twin]
        if len(chain) < decision.ahead and not last.ended:
            if not last.rollout:
                last.twin_keys = [last.key]
            ends[last.id] = last
    return list(ends.values())
