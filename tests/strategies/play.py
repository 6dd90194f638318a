"""Plays a strategy on a tree whose steps, scores and ends are made up, and checks every move that it makes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import torch

from tts_kernels.scorers import Scores
from tts_kernels.strategies import Decision, Strategy, allocate, settle
from tts_kernels.tree import Node, Problem, SearchTree, State

FOREVER = 2**31 - 1


def luck(node: Node) -> float:
    """A score in [0, 1) that the node's place in the tree decides."""
    return (node.key >> 40) / 2**24


def few(node: Node) -> float:
    """As luck, with many ties."""
    return (node.key >> 40) % 4 / 4


def sometimes(node: Node) -> bool:
    """One step in four ends its solution."""
    return node.key % 4 == 0


def never(node: Node) -> bool:
    return False


def always(node: Node) -> bool:
    return True


def words(node: Node) -> list[int]:
    """One to four tokens that the node's place decides."""
    return [2 + (node.key >> 8 * i) % 50 for i in range(1 + node.key // 64 % 4)]


class Game:
    """One strategy at work on one tree, checked at every move.

    score, ends, words: of a new node, functions of its place. before: solutions that the tree has when it begins.
    ``made``: all decisions, allocations carried out. ``held``: ids of the nodes that can still be continued.
    """

    def __init__(
        self,
        strategy: Strategy,
        problem_id: str = "p",
        score: Callable[[Node], float] = luck,
        ends: Callable[[Node], bool] = sometimes,
        seed: int = 0,
        *,
        words: Callable[[Node], list[int]] = words,
        max_length: int = FOREVER,
        before: int = 0,
    ) -> None:
        self.strategy, self.score, self.ends, self.words = strategy, score, ends, words
        self.tree = SearchTree(Problem(problem_id, [5, 6]), [5, 6], seed)
        self.tree.max_length = max_length
        self.held = {0}
        self.fresh: list[Node] = []
        self.drawn: Counter[int] = Counter()
        self.made: list[Decision] = []
        self.moves = strategy.start(self.tree)
        if before:
            self.expand(Decision(expand=[(self.tree.root, before)], whole=True, keep=True))
            self.write()

    def move(self) -> bool:
        """Carry out the next decision. False when there is none."""
        # Who does not read scores must do without those of the newest nodes: they are still NaN.
        if self.strategy.reads_scores:
            self.write()
        decision = self.shared(next(self.moves, Decision()))
        self.write()
        self.made.append(decision)
        pairs = [*decision.expand, *((node, 0) for node in decision.release)]
        assert len({node.id for node, _ in pairs}) == len(pairs)
        for node in decision.release:
            assert node.state is State.OPEN and node.id in self.held
            self.held.remove(node.id)
            node.state = State.PRUNED
        for node in decision.discard:
            assert node.ended
            node.state = State.PRUNED
        for node, tokens in decision.given:
            assert tokens and node.id in self.held and node.end + len(tokens) < self.tree.max_length
            self.held.add(self.tree.add_given(node, tokens).id)
        self.expand(decision)
        # The scores of rollouts are read before the next decision.
        assert self.strategy.reads_scores or not decision.look
        for node in decision.look:
            self.look(node, decision.ahead)
        return not decision.over

    def shared(self, decision: Decision) -> Decision:
        """The decision with its allocations carried out, on the scores that are not written yet."""
        if not decision.share:
            return decision
        members = [node.id for each in decision.share for node in each.candidates]
        assert len(set(members)) == len(members) and self.held.issuperset(members)
        scores = Scores(torch.tensor([self.score(node) for node in self.fresh]), self.write)
        widths = allocate(decision.share, self.fresh, scores if self.fresh else None, "reference")
        for each, shares in zip(decision.share, widths, strict=True):
            assert sum(shares) == each.budget * bool(each.candidates) and min(shares, default=0) >= 0
            assert sum(share > 0 for share in shares) <= each.keep
        return settle(decision, widths)

    def expand(self, decision: Decision) -> None:
        for node, width in sorted(decision.expand, key=lambda pair: pair[0].path):
            assert width >= (node is not self.tree.root) and node.id in self.held
            if width and not decision.keep:
                self.held.remove(node.id)
            for child in self.tree.add_children(node, width):
                self.grow(child, decision.whole)
                self.fresh.append(child)
                if not child.ended or self.strategy.revises:
                    self.held.add(child.id)
                # Nobody draws more steps at one place than best-of-N.
                self.drawn.update(range(child.first_step, child.first_step + len(child.step_ends)))
        assert max(self.drawn.values(), default=0) <= self.strategy.budget

    def grow(self, node: Node, whole: bool = False) -> None:
        """Give the node its step, or a whole solution of one-token steps."""
        room = self.tree.max_length - node.start
        node.tokens = self.words(node)[:room]
        assert node.tokens
        node.step_ends = list(range(1, len(node.tokens) + 1)) if whole else [len(node.tokens)]
        node.log_prob = -len(node.tokens) * (node.key // 32 % 64) / 32
        node.score = math.nan
        if self.ends(node):
            node.state = State.FINISHED
        elif whole or node.first_step + 1 >= self.tree.max_depth or len(node.tokens) == room:
            node.state = State.TRUNCATED

    def write(self) -> None:
        """Score the new nodes."""
        for node in self.fresh:
            node.score = float(np.float32(self.score(node)))
            node.step_scores = [node.score] * len(node.step_ends)
            node.num_steps = self.tree.scored_behind(node).num_steps + len(node.step_scores)
        self.fresh = []

    def look(self, node: Node, ahead: int) -> None:
        """A rollout behind the node, scored at its end."""
        assert node.state is State.OPEN and node.id in self.held
        last = node
        for _ in range(ahead):
            if not last.ended:
                child = self.tree.new_child(last, 0)
                child.rollout = True
                last = self.tree.attach(child)
                self.grow(last)
                self.fresh.append(last)
                self.write()
        node.foresight = last.score if ahead else None


def play(*args, **options) -> Game:
    """A whole game."""
    game = Game(*args, **options)
    while game.move():
        pass
    game.tree.check()
    return game


def complete(tree: SearchTree) -> list[Node]:
    return list(tree.in_state(State.FINISHED, State.TRUNCATED))


def outline(tree: SearchTree) -> list[tuple]:
    """All that a search makes of a tree, but for its rollouts."""
    return [
        (node.path, node.tokens, node.state, node.score, node.copies, node.chain)
        for node in tree.nodes
        if not node.rollout
    ]


def levels(tree: SearchTree) -> list[list[Node]]:
    """The drawn nodes at depth 1, 2, ..."""
    nodes = [node for node in tree.nodes[1:] if not node.rollout]
    return [[node for node in nodes if node.depth == depth] for depth in range(1, 1 + max(n.depth for n in nodes))]


def beam_widths(nodes: list[Node], keep: int, budget: int) -> list[int]:
    """The best ``keep`` nodes by what they are worth, the first among equals, are dealt children in turn."""
    best = sorted(nodes, key=lambda node: -node.worth)[:keep]
    dealt = Counter(best[turn % len(best)].id for turn in range(budget if best else 0))
    return [dealt[node.id] for node in nodes]
