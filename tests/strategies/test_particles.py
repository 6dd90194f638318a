"""Particle filtering: draws follow the weights, and complete particles live or die by them too."""

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from play import Game, always, complete, few, luck, never, outline, play, sometimes

from tts_kernels.strategies import ParticleFilter
from tts_kernels.strategies.particles import weights
from tts_kernels.tree import State


@settings(max_examples=150, deadline=None)
@given(
    st.integers(1, 8), st.integers(0, 2**32), st.sampled_from([luck, few]), st.sampled_from([sometimes, never, always]),
    st.integers(1, 6), st.integers(0, 5),
)  # fmt: skip
def test_the_number_of_particles_stays(budget, seed, score, ends, max_depth, before):
    """At every step: complete ones as often as they were last drawn, and the nodes that were just made."""
    strategy = ParticleFilter(budget, max_depth)
    before = min(before, budget)
    game = Game(strategy, "p", score, ends, seed, before=before)
    while game.move():
        made = game.made[-1]
        assert sum(width for _, width in made.expand) <= budget - before
    game.tree.check()
    assert not list(game.tree.in_state(State.OPEN))
    samples, particles = game.tree.nodes[1 : 1 + before], complete(game.tree)[before:]
    assert sum(node.copies for node in particles) == budget - before
    assert all(node.ended and node.copies == 1 for node in samples)
    assert all(node.copies >= 1 for node in particles)


def counts_of_first_draw(scores, seeds):
    """How often each first step was drawn, over many problems; also as a table [seed, particle]."""
    rows = []
    for seed in range(seeds):
        game = Game(ParticleFilter(len(scores)), "p", lambda node: scores[node.path[0]], never, seed)
        game.move()
        game.move()
        rows.append([node.num_children for node in game.tree.nodes[1 : 1 + len(scores)]])
    return np.array(rows)


def test_draws_follow_the_odds_of_the_scores():
    """Weights exp(logit(score)): 1/9, 1/4, 1, 4. Chi-square with three degrees of freedom; 30 is one in a million."""
    table = counts_of_first_draw([0.1, 0.2, 0.5, 0.8], 1500)
    odds = np.array([1 / 9, 1 / 4, 1, 4])
    expected = odds / odds.sum() * table.sum()
    assert (table.sum(1) == 4).all()
    assert ((table.sum(0) - expected) ** 2 / expected).sum() < 30
    # Draws with replacement are independent: the variance is binomial, not that of systematic resampling.
    share = odds / odds.sum()
    assert table.var(0) == pytest.approx(4 * share * (1 - share), rel=0.25)


def drawn_twice(seed):
    """Two particles of equal weight, the first complete. If both are drawn, the second takes a step to 0.5."""

    def score(node):
        return 0.5 if node.depth == 2 else 0.2

    game = Game(ParticleFilter(2), "p", score, lambda node: node.path == (0,), seed)
    while game.move():
        if len(game.made) == 2 and len(game.tree.nodes) != 4:
            return None
        if len(game.made) == 3:
            return game.tree
    return None


def test_a_complete_particle_keeps_its_weight():
    """Its odds are 1/4 against 1 of the other one, as for any two open ones."""
    trees = [tree for seed in range(1600) if (tree := drawn_twice(seed)) is not None]
    assert abs(len(trees) - 800) < 4 * math.sqrt(400)
    dropped = sum(tree.nodes[1].state is State.PRUNED for tree in trees)
    released = sum(tree.nodes[3].state is State.PRUNED for tree in trees)
    for seen, chance in ((dropped, 0.64), (released, 0.04)):
        assert abs(seen - chance * len(trees)) < 4 * math.sqrt(chance * (1 - chance) * len(trees))


def test_copies_are_draws_of_the_last_round():
    """A complete particle of overwhelming weight takes the place of all others, a hopeless one is no candidate."""
    good = play(ParticleFilter(8), score=lambda node: float(node.path[0] == 3), ends=lambda node: node.path[0] == 3)
    (kept,) = complete(good.tree)
    assert (kept.path, kept.copies, len(good.made)) == ((3,), 8, 3)
    assert sum(node.state is State.PRUNED for node in good.tree.nodes) == 7
    bad = play(
        ParticleFilter(8, 3), score=lambda node: float(node.path[0] != 3), ends=lambda node: node.path[0] == 3
    ).tree
    assert all(node.path[0] != 3 and node.depth == 3 for node in complete(bad))
    assert bad.nodes[4].state is State.PRUNED
    assert sum(node.copies for node in complete(bad)) == 8


def test_all_complete_at_once_is_no_draw():
    game = play(ParticleFilter(5), ends=always)
    assert len(game.made) == 2 and [node.copies for node in complete(game.tree)] == [1] * 5


def test_equal_seeds_draw_equally_and_others_do_not():
    def shapes(seeds):
        return [tuple(each[0] for each in outline(play(ParticleFilter(6, 5), seed=seed).tree)) for seed in seeds]

    assert shapes(range(20)) == shapes(range(20))
    assert len(set(shapes(range(20)))) > 15


def test_every_round_is_a_draw_of_its_own():
    """With equal scores the same numbers would pick the same places in round after round."""
    same = 0
    for seed in range(20):
        game = play(ParticleFilter(8, 3), score=lambda node: 0.5, ends=never, seed=seed)
        first, second = ([node.num_children for node in game.tree.nodes if node.depth == depth] for depth in (1, 2))
        same += first == second
    assert same == 0


def test_weights_are_the_odds():
    scores = [Fraction(1, 4), Fraction(1, 2), Fraction(3, 4), Fraction(1, 2)]
    odds = [score / (1 - score) for score in scores]
    assert weights([float(score) for score in scores]).tolist() == pytest.approx(
        [float(each / sum(odds)) for each in odds], rel=1e-15
    )
    # As with a soft-max of logits; and neither end is final.
    draw = np.random.default_rng(0).random(50)
    logits = np.log(draw) - np.log1p(-draw)
    assert weights(draw.tolist()) == pytest.approx(np.exp(logits) / np.exp(logits).sum(), rel=1e-12)
    assert weights([0.0, 0.0]).tolist() == weights([1.0, 1.0]).tolist() == [0.5, 0.5]
    low, high = weights([0.0, 1.0])
    assert low / high == pytest.approx(1e-14, rel=1e-6)
    assert Counter(weights([-3.0, 0.0, 1e-7]).tolist()) == {1 / 3: 3}
