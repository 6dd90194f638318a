"""ETS: the leaves that it keeps are worth as much as the best of all subsets."""

import random
from collections import Counter
from itertools import product

import numpy as np
import pytest
from play import Game, complete, few, levels, luck, never, outline, play, sometimes
from test_rebase import exact_widths

from tts_kernels.strategies import ETS, Rebase
from tts_kernels.strategies.ets import clusters, count_tokens
from tts_kernels.tree import State


def kind(tokens):
    """Steps with the same first token, modulo three, say the same."""
    return tokens[0] % 3


def kinds_apart(steps):
    return np.eye(3)[[kind(step) for step in steps]]


def worth(strategy, tree, leaves, chosen):
    """What the program of the paper says a choice is worth, counted set by set."""
    weights = [np.exp(np.longdouble(leaf.score - leaves[0].score) / strategy.temperature) for leaf in leaves]
    above = [{node.id for node in tree.lineage(leaf)} - {0, leaf.id} for leaf in leaves]
    kept = [i for i, use in enumerate(chosen) if use]
    alive = len(kept) + len(set().union(*(above[i] for i in kept)))
    reached = len({kind(leaves[i].tokens) for i in kept}) / len({kind(leaf.tokens) for leaf in leaves})
    share = sum(weights[i] for i in kept) / sum(weights)
    cost = alive / (len(leaves) + len(set().union(*above)))
    return float(share - strategy.cost * cost + strategy.coverage * reached)


def tree_with_leaves(seed, score, most):
    """A random tree with no more than ``most`` open leaves."""
    game = Game(Rebase(most, temperature=0.3, max_depth=20), "p", score, sometimes if seed % 2 else never, seed)
    for _ in range(2 + seed % 4):
        game.move()
    game.write()
    return game.tree, list(game.tree.in_state(State.OPEN))


def test_no_subset_is_worth_more_than_the_chosen_one():
    sizes: Counter[float] = Counter()
    for seed in range(100):
        draw = random.Random(seed)
        most = draw.choice([1, 3, 5, 7, 8, 8, 10])
        tree, leaves = tree_with_leaves(seed, draw.choice([luck, few]), most)
        if not leaves:
            continue
        options = {"cost": [0.0, 0.5, 1.0, 2.5], "coverage": [0.0, 0.2, 0.6, 1.5], "temperature": [0.05, 0.2, 5.0]}
        strategy = ETS(most, embed=kinds_apart, **{name: draw.choice(values) for name, values in options.items()})
        chosen = strategy.choose(tree, leaves)
        subsets = [subset for subset in product([False, True], repeat=len(leaves)) if any(subset)]
        best = max(worth(strategy, tree, leaves, subset) for subset in subsets)
        assert chosen.any() and chosen.dtype == bool
        assert worth(strategy, tree, leaves, chosen) == pytest.approx(best, abs=1e-6)
        sizes[sum(chosen) / len(leaves)] += 1
    # Not always all, nor always one.
    assert len(sizes) > 10


def test_without_costs_everything_is_kept_and_this_is_rebase():
    for seed in range(6):
        free = play(ETS(8, 0.2, cost=0.0, coverage=seed % 2 * 1.5), seed=seed)
        assert outline(free.tree) == outline(play(Rebase(8, 0.2), seed=seed).tree)


def test_at_any_price_the_leaf_of_best_value_is_kept():
    """Costs above all worth: one leaf stays. Of two that keep as much alive it is the better one."""
    tree, leaves = tree_with_leaves(2, luck, 6)
    assert len(leaves) > 1
    for coverage in (0.0, 1.5):
        strategy = ETS(6, cost=1e4, coverage=coverage, embed=kinds_apart)
        chosen = strategy.choose(tree, leaves)
        fewest = min(len(tree.lineage(leaf)) for leaf in leaves)
        (kept,) = np.flatnonzero(chosen)
        assert len(tree.lineage(leaves[kept])) == fewest
        assert leaves[kept].score == max(leaf.score for leaf in leaves if len(tree.lineage(leaf)) == fewest)


def test_leaves_of_a_shared_prefix_are_cheaper():
    """The third leaf alone would keep a second prefix alive; all are of equal score and say the same."""
    tree = Game(ETS(1)).tree
    for node in tree.add_children(tree.root, 2):
        node.tokens = [2]
    for parent, width in ((tree.nodes[1], 2), (tree.nodes[2], 1)):
        for node in tree.add_children(parent, width):
            node.tokens, node.score = [3], 0.5
    leaves = list(tree.in_state(State.OPEN))
    assert ETS(3, coverage=0.0).choose(tree, leaves).tolist() == [True, True, False]
    # With another thing to say it is worth its prefix.
    leaves[2].tokens = [4]
    assert ETS(3, coverage=0.5).choose(tree, leaves).all()


@pytest.mark.parametrize("coverage", [0.0, 0.7])
@pytest.mark.parametrize("seed", range(8))
def test_the_kept_leaves_share_as_in_rebase(coverage, seed):
    """Whoever is not kept is given up, the others share what complete solutions leave."""
    budget, dropped = 4 + seed, 0
    strategy = ETS(budget, coverage=coverage, max_depth=5, embed=kinds_apart)
    game = Game(strategy, "p", [luck, few][seed % 2], seed=seed, before=seed % 4)
    game.move()
    game.write()
    while leaves := list(game.tree.in_state(State.OPEN)):
        left = strategy.missing(game.tree)
        kept = [leaf for leaf, use in zip(leaves, strategy.choose(game.tree, leaves), strict=True) if use]
        assert game.move()
        game.write()
        dropped += len(leaves) - len(kept)
        assert all(leaf.state is State.PRUNED for leaf in leaves if leaf not in kept)
        widths = dict(zip((leaf.id for leaf in kept), exact_widths(kept, left, 0.2), strict=True))
        assert [leaf.num_children for leaf in leaves] == [widths.get(leaf.id, 0) for leaf in leaves]
    assert not game.move() and len(complete(game.tree)) == budget and dropped


def test_steps_are_alike_when_their_tokens_are():
    steps = [[3, 4, 5], [9, 9, 9], [5, 4, 3], [9] * 20, [3, 4, 5, 6], [7]]
    counts = count_tokens(steps)
    assert counts.tolist()[0] == [1, 1, 1, 0, 0, 0] and counts.tolist()[3] == [0, 0, 0, 0, 0, 20]
    groups = clusters(counts).tolist()
    assert groups[0] == groups[2] and groups[1] == groups[3]
    assert len(set(groups)) == 4 and sorted(set(groups)) == [0, 1, 2, 3]
    assert clusters(count_tokens([[4, 4]])).tolist() == [0]


def average_linkage(vectors, limit):
    """Join the two clusters that are nearest on average until none are within the limit."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    distance = 1 - unit @ unit.T
    found = [[i] for i in range(len(vectors))]
    while len(found) > 1:
        pairs = [(i, j) for j in range(len(found)) for i in range(j)]
        i, j = min(pairs, key=lambda pair: distance[np.ix_(found[pair[0]], found[pair[1]])].mean())
        if distance[np.ix_(found[i], found[j])].mean() > limit:
            break
        found[i] += found.pop(j)
    return {frozenset(each) for each in found}


def test_clusters_are_those_of_average_linkage():
    for seed in range(20):
        rng = np.random.default_rng(seed)
        vectors = rng.normal(size=(3, 4))[rng.integers(0, 3, 9)] + rng.normal(size=(9, 4)) * 0.35
        groups = clusters(vectors)
        assert {frozenset(np.flatnonzero(groups == group)) for group in set(groups)} == average_linkage(vectors, 0.05)


def test_default_settings():
    assert ETS(4).embed is count_tokens
    assert (ETS(4).temperature, ETS(4).cost, ETS(4).coverage, ETS(4).max_depth) == (0.2, 1.0, 1.5, 25)


@pytest.mark.parametrize("shift", [0.0, 1e4, -1e4])
def test_only_differences_of_scores_count(shift):
    """Scores that are no probabilities, at a temperature where a soft-max of them as they are would overflow."""
    trees = [
        play(ETS(6, 1e-3, coverage=0.0, max_depth=4), score=lambda node, by=by: node.key % 8 + by, ends=never).tree
        for by in (0.0, shift)
    ]
    assert [node.state for node in trees[0].nodes] == [node.state for node in trees[1].nodes]
    for nodes in levels(trees[0])[:-1]:
        kept = {node.score for node in nodes if node.state is State.EXPANDED}
        assert kept == {max(node.score for node in nodes)}
