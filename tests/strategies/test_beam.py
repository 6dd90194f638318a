"""Beam search and best-of-N, against their definitions read off the finished tree."""

from hypothesis import given, settings
from hypothesis import strategies as st
from play import FOREVER, always, beam_widths, complete, few, levels, luck, never, outline, play, sometimes

from tts_kernels.strategies import Beam, BestOfN, Greedy
from tts_kernels.tree import State

seeds = st.integers(0, 2**32)
scores = st.sampled_from([luck, few])
endings = st.sampled_from([sometimes, sometimes, never, always])


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 5), st.integers(1, 5), st.integers(1, 6), seeds, scores, endings, st.integers(0, 3),
    st.sampled_from([FOREVER, 10]),
)  # fmt: skip
def test_every_level_is_shared_as_the_rule_says(width, groups, max_depth, seed, score, ends, before, max_length):
    """ceil((budget - complete) / width) nodes are kept and share what the complete ones leave."""
    strategy = Beam(width * groups, width, max_depth)
    before = min(before, strategy.budget)
    tree = play(strategy, "p", score, ends, seed, before=before, max_length=max_length).tree
    done = 0
    assert len(levels(tree)[0]) == strategy.budget
    for nodes in levels(tree):
        done += sum(node.ended for node in nodes)
        live = [node for node in nodes if not node.ended]
        budget = strategy.budget - done
        assert [node.num_children for node in live] == beam_widths(live, -(-budget // width), budget)
        assert all(node.state is (State.EXPANDED if node.num_children else State.PRUNED) for node in live)
    assert done == strategy.budget == len(complete(tree))


def test_written_out():
    """Four first steps, two of which are kept; then one path ends and leaves three children to the two best."""
    scores = {(0,): 0.2, (1,): 0.8, (2,): 0.9, (3,): 0.1, (1, 0): 0.5, (1, 1): 0.3, (2, 0): 0.4, (2, 1): 0.7}
    ended = {(1, 0)}
    game = play(
        Beam(4, 2, max_depth=3),
        score=lambda node: scores.get(node.path, 0.5),
        ends=lambda node: node.path in ended,
    )
    shape = [node.path for nodes in levels(game.tree) for node in nodes]
    second = [(1, 0), (1, 1), (2, 0), (2, 1)]
    assert shape == [(0,), (1,), (2,), (3,), *second, (2, 0, 0), (2, 1, 0), (2, 1, 1)]
    assert [node.path for node in complete(game.tree)] == [(1, 0), (2, 0, 0), (2, 1, 0), (2, 1, 1)]


def test_of_width_one_is_best_of_n_with_pruning_off():
    for seed in range(10):
        tree = play(Beam(7, 1), seed=seed).tree
        assert not list(tree.in_state(State.PRUNED, State.OPEN))
        assert tree.root.num_children == 7
        assert all(node.num_children == (not node.ended) for node in tree.nodes[1:])
        assert sorted(node.path[0] for node in complete(tree)) == list(range(7))


def test_width_sqrt_is_the_largest_divisor_up_to_the_square_root():
    wanted = {1: 1, 2: 1, 4: 2, 6: 2, 7: 1, 12: 3, 16: 4, 18: 3, 64: 8, 256: 16}
    assert {budget: Beam(budget, "sqrt").width for budget in wanted} == wanted
    assert outline(play(Beam(12, "sqrt")).tree) == outline(play(Beam(12, 3)).tree)
    assert Beam(8).width == 4


def test_best_of_n_is_one_move():
    for strategy in (BestOfN(6), Greedy()):
        game = play(strategy)
        assert len(game.made) == 2 and game.made[0].whole and game.made[1].over
        assert [node.path for node in complete(game.tree)] == [(i,) for i in range(strategy.budget)]
    assert len(complete(play(BestOfN(6), before=4).tree)) == 6
