"""Tree search by UCT and PUCT, against visits and values counted afresh from the tree before every move."""

import math
import random
from collections import Counter
from statistics import fmean

import pytest
from play import Game, complete, levels, luck, never, outline, play, sometimes

from tts_kernels.strategies import MCTS
from tts_kernels.tree import State


def below(tree, node):
    """Scores of the node and of all that is under it; the root has none of its own."""
    return [other.score for other in tree.nodes[1:] if other.path[: node.depth] == node.path]


def children(tree, node):
    return [other for other in tree.nodes if other.parent == node.id]


def can_grow(strategy, tree, node):
    """Whether there is a leaf at or under the node whose children still fit into the budget of their depth."""
    drawn = Counter(other.first_step for other in tree.nodes[1:])
    inside = [other for other in tree.in_state(State.OPEN) if other.path[: node.depth] == node.path]
    return any(drawn[other.depth] < strategy.budget for other in inside)


def go_down(strategy, tree, merit):
    """The leaf that is reached by the best child at every node, or None."""
    node = tree.root
    while under := [child for child in children(tree, node) if can_grow(strategy, tree, child)]:
        node = max(under, key=lambda child, parent=node: merit(tree, parent, child))
    return None if node is tree.root else node


def greedy(tree, parent, child):
    return fmean(below(tree, child))


def uct(exploration):
    def merit(tree, parent, child):
        values = below(tree, child)
        return fmean(values) + exploration * math.sqrt(math.log(len(below(tree, parent))) / len(values))

    return merit


def puct(exploration):
    def merit(tree, parent, child):
        values, visits = below(tree, child), len(below(tree, parent))
        likely = [math.prod([math.exp(other.log_prob)]) ** (1 / len(other.tokens)) for other in children(tree, parent)]
        prior = math.exp(child.log_prob / len(child.tokens)) / sum(likely)
        growth = math.log((visits + 19652 + 1) / 19652) + exploration
        return fmean(values) + prior * math.sqrt(visits) / (1 + len(values)) * growth

    return merit


def follow(rule, merit, seed):
    """Play a random game, comparing every move with the leaf that is reached by hand."""
    draw = random.Random(seed)
    exploration, scale = draw.choice([0.0, 0.1, 1.0, 4.0]), draw.choice([1.0, 1.0, 1e-4])
    strategy = MCTS(
        draw.randint(3, 16), rule, exploration, root_width=draw.randint(1, 6), width=draw.randint(1, 3),
        max_depth=draw.randint(2, 6),
    )  # fmt: skip
    game = Game(strategy, score=lambda node: scale * luck(node), ends=draw.choice([sometimes, never]), seed=seed)
    game.move()
    assert game.tree.root.num_children == min(strategy.budget, strategy.root_width)
    for _ in range(40):
        game.write()
        leaf = go_down(strategy, game.tree, greedy if rule == "uct" and not exploration else merit(exploration))
        room = leaf and strategy.budget - sum(node.depth == leaf.depth + 1 for node in game.tree.nodes)
        if not game.move():
            assert leaf is None
            break
        assert game.made[-1].expand == [(leaf, min(strategy.width, room))]
    game.tree.check()


@pytest.mark.parametrize(("rule", "merit"), [("uct", uct), ("puct", puct)])
def test_every_move_goes_where_the_rule_leads(rule, merit):
    for seed in range(150):
        follow(rule, merit, seed)


def test_without_exploration_the_best_mean_is_followed():
    """A child of low score makes its node worse than its sibling, which then is gone down to."""
    scores = {(0,): 0.9, (1,): 0.6, (0, 0): 0.1, (0, 1): 0.2, (1, 0): 0.7, (1, 1): 0.9}
    game = Game(MCTS(6, exploration=0.0, root_width=2), score=lambda node: scores.get(node.path, 0.0), ends=never)
    for _ in range(4):
        game.move()
    assert [move.expand[0][0].path for move in game.made] == [(), (0,), (1,), (1, 1)]


@pytest.mark.parametrize("rule", ["uct", "puct"])
def test_exploration_visits_what_was_passed_over(rule):
    """The second child's score is worse for good: only a bonus leads there."""
    seen = {}
    for exploration in (0.0, 20.0):
        strategy = MCTS(6, rule, exploration, root_width=2, width=1, max_depth=3)
        game = Game(strategy, score=lambda node: 1.0 - 0.5 * node.path[0], ends=never)
        for _ in range(3):
            game.move()
        seen[exploration] = {move.expand[0][0].path[:1] for move in game.made[1:]}
    assert seen[0.0] == {(0,)} and seen[20.0] == {(0,), (1,)}


def test_no_depth_has_more_steps_than_the_budget_and_the_search_ends_when_all_are_full():
    for rule in ("uct", "puct"):
        for seed in range(4):
            strategy = MCTS(5, rule, root_width=4, max_depth=6)
            tree = play(strategy, seed=seed).tree
            drawn = [len(nodes) for nodes in levels(tree)]
            assert max(drawn) <= 5 and complete(tree)
            assert not any(can_grow(strategy, tree, node) for node in tree.nodes[1:])


def test_goes_on_from_samples_within_the_budget():
    """Solutions that are there already count at every depth that they reach."""
    for before in (3, 8):
        tree = play(MCTS(8, root_width=8), before=before).tree
        assert tree.root.num_children == 8
    assert outline(play(MCTS(8), before=8).tree) == outline(Game(MCTS(8), before=8).tree)


def test_default_settings():
    strategy = MCTS(4)
    assert (strategy.rule, strategy.exploration, strategy.root_width, strategy.width) == ("uct", 1.0, 8, 2)
