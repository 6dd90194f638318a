"""Revisions: what every solution is written behind, token by token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from play import FOREVER, Game, always, complete, play, sometimes

from tts_kernels.selection import collect_candidates
from tts_kernels.strategies import Revisions
from tts_kernels.tree import State


def essay(node):
    """One to six tokens that no other node has."""
    return [node.key % 10**9 + 100] * (1 + node.key // 7 % 6)


def behind(tree, node):
    """The tokens between the prompt and a solution."""
    return [token for part in tree.lineage(node)[1:-1] for token in part.tokens]


def chains_of(tree):
    chains: dict[int, list] = {}
    for node in complete(tree):
        chains.setdefault(node.chain, []).append(node)
    return chains


def flat(parts):
    return [token for part in parts for token in part]


def wanted(tree, earlier, window, between):
    """The last ``window`` solutions, without the oldest ones as long as the longest of all would not fit behind."""
    longest, room = max(len(node.tokens) for node in earlier), tree.max_length - tree.root.end
    parts = [node.tokens + between for node in earlier[-window:]]
    while len(parts) > 1 and len(flat(parts)) + longest >= room:
        del parts[0]
    tokens = flat(parts)
    return tokens if len(tokens) < room else tokens[-(room // 2) :]


@settings(max_examples=200, deadline=None)
@given(
    chains=st.integers(1, 4), sequential=st.integers(1, 7), window=st.integers(1, 5),
    between=st.sampled_from([(), [7], [8, 9], "question"]), max_length=st.sampled_from([FOREVER, 60, 30, 20, 12, 8, 5]),
    ends=st.sampled_from([always, sometimes]), seed=st.integers(0, 2**32),
)  # fmt: skip
def test_every_solution_is_written_behind_the_last_ones_of_its_chain(
    chains, sequential, window, between, max_length, ends, seed
):
    strategy = Revisions(chains * sequential, sequential, window, between)
    tree = play(strategy, "p", ends=ends, seed=seed, words=essay, max_length=max_length).tree
    assert len(complete(tree)) == chains * sequential
    assert max(node.end for node in tree.nodes) <= max_length
    if sequential == 1:
        assert tree.root.num_children == chains
        return
    between = [5, 6] if between == "question" else list(between)
    found = chains_of(tree)
    assert sorted(found) == list(range(chains))
    for place, solutions in found.items():
        assert len(solutions) == sequential and solutions[0].path == (place,)
        assert behind(tree, solutions[0]) == []
        for count in range(1, sequential):
            node = solutions[count]
            assert behind(tree, node) == wanted(tree, solutions[:count], window, between)
            assert tree.solution(node) == node.tokens and node.num_steps == len(node.tokens)


def test_written_out():
    """Two chains of three with a window of two: the third solution continues the path of the second."""
    game = play(Revisions(6, 3, 2, [7]), ends=always, words=lambda node: [10 * node.depth, node.key % 10**9 + 100])
    tree = game.tree
    for first, second, third in chains_of(tree).values():
        assert behind(tree, second) == [*first.tokens, 7]
        assert behind(tree, third) == [*first.tokens, 7, *second.tokens, 7]
        # Behind the first two there is nothing but the request.
        assert [part.tokens for part in tree.lineage(third)[2:-1:2]] == [[7], [7]]


def test_one_that_is_longer_than_the_window_is_read_again():
    game = play(Revisions(5, 5, 2, [7]), ends=always, words=essay)
    first, second, third, fourth, fifth = complete(game.tree)
    assert [len(move.given) for move in game.made if move.given] == [1] * 4
    assert behind(game.tree, third) == [*first.tokens, 7, *second.tokens, 7]
    assert behind(game.tree, fourth) == [*second.tokens, 7, *third.tokens, 7]
    assert behind(game.tree, fifth) == [*third.tokens, 7, *fourth.tokens, 7]
    assert game.tree.nodes[fifth.parent].parent == 0


def test_a_policy_that_goes_on_by_itself_is_handed_nothing_within_the_window():
    within = play(Revisions(8, 4, window=3), words=essay)
    assert [bool(move.given) for move in within.made] == [False] * 5
    beyond = play(Revisions(8, 4, window=2), words=essay)
    assert [len(move.given) for move in beyond.made] == [0, 0, 0, 2, 0, 0]
    assert all(move.whole and move.keep == (place == 0) for place, move in enumerate(within.made[:-1]))


def test_older_attempts_make_room_first():
    """Room for the prompt, three solutions of four tokens and less than a fourth."""
    options = {"ends": always, "words": lambda node: [node.key % 10**9 + 100] * 4}
    for max_length, count in ((2 + 12, 1), (2 + 13, 2), (2 + 17, 3), (FOREVER, 4)):
        game = play(Revisions(6, 6), max_length=max_length, **options)
        solutions = complete(game.tree)
        assert behind(game.tree, solutions[-1]) == flat(node.tokens for node in solutions[-1 - count : -1])


@pytest.mark.parametrize("between", [[], [7, 7]])
def test_of_a_solution_that_fills_the_path_its_end_is_revised(between):
    """Cut at the limit it leaves room for nothing; half of the room is for the revision."""
    game = play(
        Revisions(3, 3, 1, between), ends=lambda node: False, words=lambda node: [*range(10, 40)], max_length=22
    )
    solutions = complete(game.tree)
    assert [node.state for node in solutions] == [State.TRUNCATED] * 3
    assert behind(game.tree, solutions[1]) == [*range(10, 30), *between][-10:]
    assert behind(game.tree, solutions[2]) == ([*range(10, 20), *between] if between else [*range(10, 20)])[-12:]
    assert all(node.end == 22 for node in solutions)


def test_goes_on_from_samples():
    """They count, but are no part of a chain."""
    tree = play(Revisions(9, 3), before=3, words=essay).tree
    samples, rest = complete(tree)[:3], complete(tree)[3:]
    assert [node.chain for node in samples] == [None] * 3
    assert sorted(node.chain for node in rest) == [0, 0, 0, 1, 1, 1]


def test_candidates_are_the_bare_solutions_of_their_chains():
    game = Game(Revisions(4, 2, between=[7]), ends=always, words=essay)
    while game.move():
        pass
    candidates = collect_candidates(game.tree)
    assert [each.chain for each in candidates] == [0, 1, 0, 1]
    for candidate, node in zip(candidates, complete(game.tree), strict=True):
        assert candidate.tokens == node.tokens and candidate.log_prob == node.log_prob
        assert (candidate.score, candidate.copies, candidate.finished) == (node.score, 1, True)


def test_the_neutral_ratio_is_the_default():
    lengths = {budget: Revisions(budget).sequential for budget in (1, 4, 8, 16, 36, 64)}
    assert lengths == {1: 1, 4: 2, 8: 2, 16: 4, 36: 6, 64: 8}
    assert Revisions(4).window == 4 and Revisions(4).revises and not Revisions(4).reads_scores
