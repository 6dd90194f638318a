"""DVTS: beams of one node each that never compete."""

from hypothesis import given, settings
from hypothesis import strategies as st
from play import FOREVER, always, beam_widths, complete, few, levels, luck, never, outline, play, sometimes

from tts_kernels.strategies import DVTS, Beam

seeds = st.integers(0, 2**32)
scores = st.sampled_from([luck, few])


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 8), seeds, scores)
def test_one_tree_is_beam_search_that_keeps_one_node(width, seed, score):
    one = play(DVTS(width, width, 6), score=score, seed=seed)
    assert outline(one.tree) == outline(play(Beam(width, width, 6), score=score, seed=seed).tree)


@settings(max_examples=60, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 5), seeds, scores,
    st.sampled_from([never, sometimes, always]), st.integers(0, 5), st.sampled_from([FOREVER, 10]),
)  # fmt: skip
def test_every_tree_is_a_beam_of_its_own(width, groups, max_depth, seed, score, ends, before, max_length):
    """Also the smaller last one of a budget that was begun, and where paths run into their limit one by one."""
    strategy = DVTS(width * groups, width, max_depth)
    before = min(before, strategy.budget)
    tree = play(strategy, "p", score, ends, seed, before=before, max_length=max_length).tree
    for group in range(groups):
        begin = before + group * width
        size = max(0, min(width, strategy.budget - begin))
        places = range(begin, begin + size)
        left = size
        for nodes in levels(tree):
            mine = [node for node in nodes if node.path[0] in places]
            left -= sum(node.ended for node in mine)
            live = [node for node in mine if not node.ended]
            assert [node.num_children for node in live] == beam_widths(live, 1, left)
        assert left == 0
    assert len(complete(tree)) == strategy.budget


def test_trees_do_not_see_each_others_scores():
    def outline_of(group, tree):
        return [each for each in outline(tree) if each[0] and each[0][0] // 3 == group]

    for seed in range(5):
        usual = play(DVTS(9, 3, 6), seed=seed).tree
        for group in range(3):

            def twisted(node, group=group):
                return luck(node) if node.path[0] // 3 == group else 1.0 - luck(node) / 2

            other = play(DVTS(9, 3, 6), score=twisted, seed=seed).tree
            assert outline_of(group, other) == outline_of(group, usual)
            assert outline(other) != outline(usual)


def test_no_tree_dies_where_beam_search_would_let_it():
    """One tree's scores are all above the others'."""

    def score(node):
        return 1.0 - node.path[0] / 100

    tree = play(DVTS(8, 2, 4), score=score, ends=never).tree
    assert sorted(node.path[0] // 2 for node in complete(tree)) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {node.path[0] // 2 for node in complete(play(Beam(8, 2, 4), score=score, ends=never).tree)} == {0}
