"""Lookahead search: beam search by the scores at the end of the rollouts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from play import beam_widths, complete, few, levels, luck, never, outline, play, sometimes

from tts_kernels.strategies import Beam, Lookahead
from tts_kernels.tree import State

scores = st.sampled_from([luck, few])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 6), st.integers(0, 2**32), scores)
def test_nothing_ahead_is_beam_search(width, groups, max_depth, seed, score):
    """Move by move the same tree."""
    budget = width * groups
    ahead = play(Lookahead(budget, width, 0, max_depth), score=score, seed=seed)
    beam = play(Beam(budget, width, max_depth), score=score, seed=seed)
    assert outline(ahead.tree) == outline(beam.tree)
    assert len(ahead.tree.nodes) == len(beam.tree.nodes)
    moves = [[(node.id, count) for node, count in move.expand] for move in ahead.made if not move.look]
    assert moves == [[(node.id, count) for node, count in move.expand] for move in beam.made]


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2**32), st.sampled_from([never, sometimes])
)
def test_a_node_is_worth_what_the_end_of_its_rollout_scores(width, groups, ahead, seed, ends):
    strategy = Lookahead(width * groups, width, ahead, max_depth=5)
    tree = play(strategy, ends=ends, seed=seed).tree
    done = 0
    for nodes in levels(tree):
        done += sum(node.ended for node in nodes)
        live = [node for node in nodes if not node.ended]
        for node in live:
            chain = tree.rollout(node)
            assert 0 < len(chain) <= ahead and not any(part.ended for part in chain[:-1])
            assert len(chain) == ahead or chain[-1].ended
            assert node.worth == chain[-1].score
        assert not any(tree.rollout(node) for node in nodes if node.ended)
        budget = strategy.budget - done
        assert [node.num_children for node in live] == beam_widths(live, -(-budget // width), budget)
    assert len(complete(tree)) == strategy.budget and not any(node.rollout for node in complete(tree))


def test_every_open_node_is_looked_at_once_right_before_the_choice():
    strategy = Lookahead(6, 3, ahead=2)
    made = play(strategy).made
    looks, choices = made[1:-1:2], made[2:-1:2]
    assert len(looks) == len(choices) > 1
    for look, choice in zip(looks, choices, strict=True):
        assert (look.ahead, look.width) == (2, 3) and not (look.expand or look.release)
        decided = [node for node, _ in choice.expand] + choice.release
        assert {node.id for node in look.look} == {node.id for node in decided}
    seen = [node.id for look in looks for node in look.look]
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_step_that_leads_nowhere_is_given_up(ahead):
    """By their own scores the first node would be kept, by those of their futures the second."""

    def score(node):
        return float(node.path[0]) if node.depth > 1 else 1.0 - node.path[0]

    tree = play(Lookahead(2, 2, ahead, max_depth=6), score=score, ends=never).tree
    assert tree.nodes[1].score > tree.nodes[2].score
    assert tree.nodes[1].state is State.PRUNED and tree.nodes[2].num_children == 2
