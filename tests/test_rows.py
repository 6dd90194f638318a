"""Rows in arrays against nodes that are told every token at once."""

import random

import numpy as np
import pytest

from tts_kernels.admission import Row
from tts_kernels.rows import BLOCK, Growing
from tts_kernels.search import Sampling
from tts_kernels.tree import Node, Problem, SearchTree


def grow_rows(rng, count):
    """Nodes of two trees, with keys over the whole range of 64 bits and a few followers."""
    trees = [SearchTree(Problem(f"p{index}", [1, 2, 3]), [1, 2, 3], seed=0) for index in range(2)]
    rows = []
    for index in range(count):
        (node,) = trees[index % 2].add_children(trees[index % 2].root, 1)
        node.tokens = [rng.randrange(9) for _ in range(rng.randint(0, 3))]
        followers = [rng.getrandbits(64) for _ in range(rng.randint(0, 2))]
        rows.append(Row(trees[index % 2], node, 100 + index, followers=followers))
    return rows


@pytest.mark.parametrize("seed", range(5))
def test_nodes_are_told_all_that_was_drawn(seed):
    rng = random.Random(seed)
    rows = grow_rows(rng, 12)
    growing = Growing(rows, Sampling(), 1000)
    want = [(list(row.node.tokens), 0.0, list(row.followers), row.kv) for row in rows]
    for step in range(2 * BLOCK + 5):
        tokens = np.array([rng.randrange(99) for _ in growing.rows], np.int64)
        log_probs = np.array([-rng.random() for _ in growing.rows], np.float32)
        growing.add(tokens, log_probs)
        growing.states[:] = step
        want = [
            ([*told, token], total + log_prob, followers, kv)
            for (told, total, followers, kv), token, log_prob in zip(
                want, tokens.tolist(), log_probs.tolist(), strict=True
            )
        ]
        if rng.random() < 0.3:
            growing.write_row(rng.randrange(len(growing)))
        if rng.random() < 0.05 and len(growing) > 3:
            gone = rng.randrange(len(growing))
            row = growing.write_row(gone)
            assert (row.node.tokens, row.node.log_prob, row.followers, row.kv) == want.pop(gone)
            growing.keep(np.arange(len(growing)) != gone)
        assert growing.ends.tolist() == [3 + len(told) for told, *_ in want] and len(growing) == len(want)
    got = [(row.node.tokens, row.node.log_prob, row.followers, row.kv) for row in growing]
    assert got == want
    assert [row.detector_state for row in growing] == [step] * len(want)


def test_amounts_are_summed_by_search():
    rows = grow_rows(random.Random(0), 5)
    growing = Growing(rows, Sampling(), 1000)
    first, second = rows[0].search, rows[1].search
    amounts = np.array([1, 10, 2, 20, 4])
    assert growing.by_search(amounts) == [(first, 3, 7), (second, 2, 30)]
    growing.keep(np.array([False, True, False, True, False]))
    assert growing.by_search(amounts[[1, 3]]) == [(second, 2, 30)]


def test_a_row_is_watched_where_a_limit_may_end_it():
    tree = SearchTree(Problem("p", [1, 2, 3]), [1, 2, 3], seed=0)
    nodes = [Node(0, -1, (), 0, start, origin=3) for start in (3, 10, 10)]
    rows = [Row(tree, node, 0, whole=index == 2) for index, node in enumerate(nodes)]
    sampling = Sampling(max_step_tokens=5, max_tokens=20)
    assert Growing(rows, sampling, 1000).watch.tolist() == [8, 15, 23]
    assert Growing(rows, sampling, 12).watch.tolist() == [8, 12, 12]
