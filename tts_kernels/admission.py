"""Who is in the forest: problems join while there is room, are put off when pages run short, and leave."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import numpy as np

from tts_kernels import _ext
from tts_kernels.answers import same_answer
from tts_kernels.meter import Meter
from tts_kernels.scorers import PathTooLong, Scores
from tts_kernels.search import Problem, Sampling, SearchResult, SearchStats
from tts_kernels.selection import Selection, Selector, collect_candidates, select_answer
from tts_kernels.strategies import Decision, Play, Strategy
from tts_kernels.tree import Node, SearchTree

if TYPE_CHECKING:
    from tts_kernels.decoder import Decoder

T = TypeVar("T")


class Placed(Protocol):
    """Something that belongs to a search and to one of its nodes."""

    @property
    def search(self) -> Search: ...

    @property
    def node(self) -> Node: ...


P = TypeVar("P", bound=Placed)


@dataclass(eq=False)
class Search:
    """One problem under way. ``kv``: forest node of every tree node that may still be expanded; ``loose``: forest nodes
    that belong to no node of the tree (yet). ``moves``: what the strategy does; ``decision``: its next move, once
    known; ``looking``: the rollouts that it waits for. ``early``: children drawn ahead of the decision, by node and
    index. ``stopped``: it has reached its limit.

    The last token of a node is never in the pool: it is fed when the node is expanded, together with its siblings'.
    """

    problem: Problem
    tree: SearchTree
    moves: Play
    meter: Meter
    kv: dict[int, int] = field(default_factory=dict)
    loose: set[int] = field(default_factory=set)
    early: dict[int, dict[int, Row]] = field(default_factory=dict)
    decision: Decision | None = None
    looking: Decision | None = None
    alive: bool = True
    stopped: bool = False

    @property
    def stats(self) -> SearchStats:
        return self.meter.stats

    @property
    def held(self) -> list[int]:
        """Everything it holds in the forest."""
        return [*self.kv.values(), *self.loose]


@dataclass(eq=False)
class Row:
    """One node that is growing: its forest node and the state of its separator automaton.

    ``greedy``: it takes the likeliest token; ``followers``: keys of nodes that would have drawn the same so far.
    ``early``: nobody has decided yet that there will be such a node.
    """

    search: Search
    node: Node
    kv: int
    whole: bool = False
    detector_state: int = 0
    greedy: bool = False
    followers: list[int] = field(default_factory=list)
    early: bool = False


@dataclass(eq=False)
class Expansion:
    """One node that is to get ``width`` children. ``kv``: the forest node that they continue. By index the
    children that need not be drawn: ``twins``, forest nodes, or None where they need none, and ``claimed``, rows that
    grew early.

    ``greedy``: the child is the next node of a rollout, after which a node may get ``width`` children.
    """

    search: Search
    node: Node
    width: int
    kv: int
    whole: bool = False
    keep: bool = False
    greedy: bool = False
    # A decision, never ahead of one.
    early: ClassVar[bool] = False
    twins: dict[int, int | None] = field(default_factory=dict)
    claimed: dict[int, Row] = field(default_factory=dict)
    followers: list[int] = field(default_factory=list)
    indices: range = range(-1, 0)

    def __post_init__(self) -> None:
        # Behind the children that are there.
        if not self.greedy:
            self.indices = range(self.node.num_children, self.node.num_children + self.width)

    @property
    def missing(self) -> list[int]:
        """Indices of the children to be drawn now."""
        return [index for index in self.indices if index not in self.twins and index not in self.claimed]


class Admission:
    """The problems of one run: waiting, active, failed."""

    def __init__(self, decoder: Decoder, strategy: Strategy, sampling: Sampling, select: Selection | Selector) -> None:
        self.strategy = strategy
        # A revision is scored without what it revises.
        context, scored = decoder.policy.context_length, decoder.scorer.context_length - 1
        self.max_length = context if strategy.revises else min(context, scored)
        self.decoder = decoder
        self.policy = decoder.policy
        self.scorer = decoder.scorer
        self.sampling = sampling
        self.select: Selection | Selector = select
        self.waiting: deque[tuple[Problem, list[int], int]] = deque()
        self.active: list[Search] = []
        self.failed: list[SearchResult] = []
        self.out_of_pages: type[Exception] = _ext.host().OutOfPages
        # How many problems may run at once. Where pages run short the limit falls, and rises as problems finish.
        self.limit = self.most_active = max(1, decoder.max_rows // strategy.budget)

    def admit(self) -> None:
        """Let waiting problems in, first come first served: all the prompts that fit are fed together."""
        joining: list[Search] = []
        while self.waiting and len(self.active) + len(joining) < self.most_active:
            problem, prompt, restarts = self.waiting.popleft()
            tree = SearchTree(problem, prompt, self.sampling.seed)
            tree.max_length = self.max_length
            tree.stats.restarts = restarts
            meter = Meter(self.policy, self.scorer, tree.stats)
            joining.append(Search(problem, tree, self.strategy.start(tree), meter))
        while joining:
            try:
                self.prefill(joining)
                self.active += joining
                return
            except PathTooLong as error:
                search = next(search for search in joining if search.tree is error.tree)
                joining.remove(search)
                self.failed.append(self.result(search, str(error)))
            except self.out_of_pages as error:
                last = joining.pop()
                if joining or self.active:
                    self.waiting.appendleft((last.problem, last.tree.root.tokens, last.stats.restarts))
                    self.most_active = max(1, len(self.active) + len(joining))
                else:
                    self.failed.append(self.result(last, str(error)))

    def prefill(self, searches: list[Search]) -> None:
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
            search.meter.fed(count, 0)
            search.meter.scored(search.tree)

    def leave(self, search: Search) -> None:
        """Give back everything the search holds."""
        search.alive = False
        self.active.remove(search)
        self.policy.forest.release(np.array(search.held, np.int32))
        search.stats.wasted_tokens += sum(len(r.node.tokens) for rows in search.early.values() for r in rows.values())
        search.kv.clear()
        search.loose.clear()
        search.early.clear()
        self.scorer.drop(search.tree)

    def with_room(self, rows: list[P], primitive: Callable[[list[P]], T]) -> tuple[list[P], T | None]:
        """Run an all-or-nothing primitive of the policy for those rows that there is room for."""
        while rows := [row for row in rows if row.search.alive]:
            try:
                return rows, primitive(rows)
            except self.out_of_pages as error:
                self.make_room(error)
        return [], None

    def make_room(self, error: Exception) -> None:
        """Pages are short: what was drawn ahead is given up first, then the scorer gives pages back, then the problem
        that came last is put off."""
        if not self.dismiss_all() and not self.scorer.spill():
            self.put_off(str(error))

    def dismiss_all(self) -> bool:
        """Give up what may yet turn out not to be needed. False when there is nothing."""
        return False

    def put_off(self, reason: str) -> None:
        """The problem that came last makes room and starts again later; alone it has failed."""
        victim = self.active[-1]
        self.leave(victim)
        if self.active:
            self.most_active = len(self.active)
            self.waiting.appendleft((victim.problem, victim.tree.root.tokens, victim.stats.restarts + 1))
        else:
            self.failed.append(self.result(victim, reason))

    def scored(self, rows: list[Row]) -> tuple[list[Row], Scores | None]:
        """Have these nodes scored. A problem whose paths are too long for the scorer has failed."""
        while rows := [row for row in rows if row.search.alive]:
            try:
                return rows, self.scorer.score([(row.search.tree, row.node) for row in rows])
            except self.out_of_pages as error:
                self.put_off(str(error))
            except PathTooLong as error:
                search = next(row.search for row in rows if row.search.tree is error.tree)
                self.failed.append(self.result(search, str(error)))
                self.leave(search)
        return [], None

    def result(self, search: Search, error: str | None = None) -> SearchResult:
        tree = search.tree
        candidates = collect_candidates(tree, self.decoder.tokenizer)
        answer = None
        if not error:
            how = self.select
            try:
                answer = how(tree, candidates) if callable(how) else select_answer(candidates, how)
            except self.out_of_pages as shortage:
                error = str(shortage)
        expected = search.problem.answer
        correct = None if expected is None or error else same_answer(answer, expected)
        search.stats.seconds = time.perf_counter() - search.meter.begin
        return SearchResult(search.problem, answer, correct, candidates, tree, search.stats, error)
