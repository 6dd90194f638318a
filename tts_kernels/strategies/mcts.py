"""Monte-Carlo tree search over steps, with UCT (Wu et al. 2408.00724, appendix) or PUCT (OpenR, 2410.09671)."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

from tts_kernels._checks import expect
from tts_kernels.strategies.base import Decision, Play, Strategy
from tts_kernels.tree import Node, SearchTree, State


class MCTS(Strategy):
    """Again and again: go down from the root by the rule, expand the leaf that is reached, add the scores of its
    children to the mean value Q of every node above.

    rule: "uct", Q + exploration * sqrt(ln N(parent) / N); or "puct", Q + P sqrt(N(parent)) / (1 + N) * (ln((N(parent)
    + 19653) / 19652) + exploration) with P the node's share among its siblings by exp(mean log-probability). N counts
    scores that went through a node. ``root_width``, ``width``: children of the root and of other nodes.
    No more than ``budget`` steps are drawn at one depth; the search ends when no leaf can be expanded. Unlike a beam it
    does not shrink as solutions are completed, so where these end early it draws more and finds more than ``budget``.
    With ``exploration`` = 0, UCT follows Q alone.
    """

    name = "mcts"
    reads_scores = True

    def __init__(
        self,
        budget: int,
        rule: str = "uct",
        exploration: float = 1.0,
        root_width: int = 8,
        width: int = 2,
        max_depth: int = 40,
    ) -> None:
        super().__init__(budget, max_depth)
        expect(self.name, rule in ("uct", "puct"), "rule", "uct or puct", repr(rule))
        expect(self.name, 0 <= exploration < math.inf, "exploration", "at least 0 and finite", exploration)
        for name, value in (("root_width", root_width), ("width", width)):
            expect(self.name, isinstance(value, int) and value >= 1, name, "at least 1", value)
        self.rule, self.exploration, self.root_width, self.width = rule, exploration, root_width, width

    def play(self, tree: SearchTree) -> Play:
        search = _Values(tree, self)
        leaf: Node | None = tree.root if search.budget > 0 else None
        while leaf is not None:
            wanted = self.root_width if leaf is tree.root else self.width
            width = min(wanted, search.budget - search.drawn[leaf.depth + 1])
            search.drawn[leaf.depth + 1] += width
            yield Decision(expand=[(leaf, width)])
            search.learn(leaf)
            leaf = search.select()


class _Values:
    """Visits and mean values of one tree. ``drawn``: nodes at each depth, no more than ``budget``."""

    def __init__(self, tree: SearchTree, how: MCTS) -> None:
        self.tree, self.how, self.budget = tree, how, how.missing(tree)
        self.visits: Counter[int] = Counter()
        self.value: defaultdict[int, float] = defaultdict(float)
        self.children: dict[int, list[Node]] = {}
        self.drawn: Counter[int] = Counter()
        # Nodes under which nothing can be expanded any more.
        self.spent: set[int] = set()

    def learn(self, leaf: Node) -> None:
        """The leaf has new children."""
        children = self.children[leaf.id] = [node for node in self.tree.nodes if node.parent == leaf.id]
        for child in children:
            for node in self.tree.lineage(child):
                self.visits[node.id] += 1
                self.value[node.id] += (child.score - self.value[node.id]) / self.visits[node.id]

    def select(self) -> Node | None:
        """The leaf that the rule leads to, None when all is spent."""
        path = [self.tree.root]
        while path:
            node = path[-1]
            if node.id not in self.children and not self.full(node):
                return node
            usable = [child for child in self.children.get(node.id, []) if child.id not in self.spent]
            if usable:
                path.append(max(usable, key=lambda child: self.merit(node, child)))
            else:
                self.spent.add(node.id)
                path.pop()
        return None

    def full(self, node: Node) -> bool:
        return node.state is not State.OPEN or self.drawn[node.depth + 1] >= self.budget

    def merit(self, parent: Node, child: Node) -> float:
        total, visits, c = self.visits[parent.id], self.visits[child.id], self.how.exploration
        if self.how.rule == "uct":
            return self.value[child.id] + c * math.sqrt(math.log(total) / visits)
        odds = {node.id: math.exp(node.log_prob / len(node.tokens)) for node in self.children[parent.id]}
        prior = odds[child.id] / sum(odds.values())
        weight = math.log((total + 19653) / 19652) + c
        return self.value[child.id] + weight * prior * math.sqrt(total) / (1 + visits)
