"""Decisions for all problems at once, made before the scores reach the host."""

import pytest
import torch

from tts_kernels.scorers import Scores
from tts_kernels.strategies import Allocation, Beam, allocate, base
from tts_kernels.tree import Problem, SearchTree


def open_nodes(name, count):
    tree = SearchTree(Problem(name, [1]), [1], seed=0)
    return tree.add_children(tree.root, count)


def test_all_problems_in_one_call_and_before_the_scores_are_written(monkeypatch):
    calls = []
    select = base.select_children
    monkeypatch.setattr(base, "select_children", lambda *a, **k: calls.append(a) or select(*a, **k))

    def write():
        raise AssertionError("the scores were waited for")

    first, second = open_nodes("a", 4), open_nodes("b", 3)
    scores = Scores(torch.tensor([0.1, 0.9, 0.5, 0.7, 0.2, 0.3, 0.4]), write)
    allocations = [Allocation(first, 2, 5), Allocation(second, 1, 4), Allocation([], 3, 0)]
    decisions = allocate(Beam(4, 2), allocations, [*first, *second], scores, "reference")
    assert len(calls) == 1
    assert decisions[0].expand == [(first[1], 3), (first[3], 2)] and decisions[0].release == [first[0], first[2]]
    assert decisions[1].expand == [(second[2], 4)] and decisions[1].release == second[:2]
    assert not decisions[2].expand and not decisions[2].release


def test_nodes_scored_earlier_take_part_with_the_scores_they_have():
    new, old = open_nodes("a", 2), open_nodes("b", 2)
    old[0].score, old[1].score = 0.6, 0.2
    scores = Scores(torch.tensor([0.1, 0.5]), lambda: None)
    (decision,) = allocate(Beam(4, 2), [Allocation([*old, *new], 2, 2)], new, scores, "reference")
    assert decision.expand == [(old[0], 1), (new[1], 1)] and decision.release == [old[1], new[0]]
    (decision,) = allocate(Beam(4, 2), [Allocation(old, 1, 3)], [], None, "reference")
    assert decision.expand == [(old[0], 3)]


def test_nan_scores_are_refused():
    nodes = open_nodes("a", 2)
    with pytest.raises(ValueError, match="scores must not be NaN"):
        allocate(
            Beam(4, 2), [Allocation(nodes, 1, 2)], nodes, Scores(torch.tensor([0.1, torch.nan]), lambda: None), None
        )
