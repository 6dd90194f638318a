"""REBASE: shares by the soft-max of scores, against the documented rule in decimal arithmetic."""

from decimal import ROUND_CEILING, Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from play import FOREVER, always, complete, few, levels, luck, never, play, sometimes

from tts_kernels.strategies import Rebase
from tts_kernels.tree import State


def exact_widths(nodes, budget, temperature):
    """In order of score each gets ceil(remaining budget * w / remaining weight), and no more than is left."""
    order = sorted(range(len(nodes)), key=lambda i: -nodes[i].score)
    widths = [0] * len(nodes)
    with localcontext() as context:
        context.prec = 80
        best = Decimal(max((node.score for node in nodes), default=0.0))
        weights = [((Decimal(nodes[i].score) - best) / Decimal(temperature)).exp() for i in order]
        for place, i in enumerate(order):
            share = budget * weights[place] / sum(weights[place:])
            whole = share.to_integral_value()
            near = abs(share - whole) <= Decimal("1e-12")
            widths[i] = min(budget, int(whole if near else share.to_integral_value(ROUND_CEILING)))
            budget -= widths[i]
    return widths


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 24), st.sampled_from([0.003, 0.02, 0.1, 0.2, 1.0, 30.0]), st.integers(1, 6),
    st.integers(0, 2**32), st.sampled_from([luck, few]), st.sampled_from([sometimes, never, always]),
    st.integers(0, 3), st.sampled_from([FOREVER, 10]),
)  # fmt: skip
def test_every_level_is_shared_exactly(budget, temperature, max_depth, seed, score, ends, before, max_length):
    strategy = Rebase(budget, temperature, max_depth)
    tree = play(strategy, "p", score, ends, seed, before=min(before, budget), max_length=max_length).tree
    done = 0
    assert len(levels(tree)[0]) == budget
    for nodes in levels(tree):
        done += sum(node.ended for node in nodes)
        live = [node for node in nodes if not node.ended]
        assert [node.num_children for node in live] == exact_widths(live, budget - done, temperature)
        assert all(node.state is (State.EXPANDED if node.num_children else State.PRUNED) for node in live)
    assert done == budget == len(complete(tree))


@pytest.mark.parametrize("temperature", [1e6, 1e16])
@pytest.mark.parametrize("budget", [1, 2, 7, 16])
def test_a_high_temperature_shares_uniformly(temperature, budget):
    """Where weights differ by a hair, rounding up gives the first a child more and leaves the last without: every
    share is within one of the mean. Where they are equal, shares differ by one at most."""
    for seed in range(5):
        tree = play(Rebase(budget, temperature, 8), seed=seed).tree
        done = 0
        for nodes in levels(tree):
            done += sum(node.ended for node in nodes)
            widths = [node.num_children for node in nodes if not node.ended]
            if widths:
                mean = (budget - done) / len(widths)
                assert all(abs(width - mean) <= 1 for width in widths)
                assert temperature < 1e16 or max(widths) - min(widths) <= 1


def test_a_low_temperature_is_greedy():
    tree = play(Rebase(6, 1e-4, 5), ends=never).tree
    for nodes in levels(tree)[:-1]:
        best = max(nodes, key=lambda node: node.score)
        assert [node.num_children for node in nodes] == [6 * (node is best) for node in nodes]


def test_default_settings_are_the_papers():
    strategy = Rebase(4)
    assert (strategy.temperature, strategy.max_depth) == (0.1, 25)
    game = play(strategy)
    assert all(move.expand for move in game.made[:-1])
