"""Decisions for all problems at once, made before the scores reach the host."""

import pytest
import torch

from tts_kernels.scorers import Scores
from tts_kernels.strategies import Allocation, Decision, allocate, base, settle
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
    widths = allocate(allocations, [*first, *second], scores, "reference")
    assert len(calls) == 1
    assert widths == [[0, 3, 0, 2], [0, 0, 4], []]
    decision = settle(Decision(expand=[(second[0], 1)], share=allocations[:1]), widths[:1])
    assert decision.expand == [(second[0], 1), (first[1], 3), (first[3], 2)]
    assert decision.release == [first[0], first[2]] and not decision.share


def test_nodes_scored_earlier_take_part_with_the_scores_they_have():
    new, old = open_nodes("a", 2), open_nodes("b", 2)
    old[0].score, old[1].score = 0.6, 0.2
    scores = Scores(torch.tensor([0.1, 0.5]), lambda: None)
    assert allocate([Allocation([*old, *new], 2, 2)], new, scores, "reference") == [[1, 0, 0, 1]]
    assert allocate([Allocation(old, 1, 3)], [], None, "reference") == [[3, 0]]
    old[1].foresight = 0.7
    assert allocate([Allocation(old, 1, 3)], [], None, "reference") == [[0, 3]]


def test_each_rule_is_one_call(monkeypatch):
    calls = []
    select = base.select_children
    monkeypatch.setattr(base, "select_children", lambda *a, **k: calls.append(k["rule"]) or select(*a, **k))
    trees = [open_nodes(name, 2) for name in "abc"]
    for first, second in trees:
        first.score, second.score = 0.9, 0.1
    rules = ["topk", "rebase", "topk"]
    allocations = [Allocation(nodes, 2, 4, rule, 1e13) for nodes, rule in zip(trees, rules, strict=True)]
    allocations[2] = Allocation(trees[2], 1, 4, "topk", 1e13)
    assert allocate(allocations, [], None, "reference") == [[2, 2], [2, 2], [4, 0]]
    assert calls == ["topk", "rebase"]


def test_nan_scores_are_refused():
    nodes = open_nodes("a", 2)
    with pytest.raises(ValueError, match="scores must not be NaN"):
        allocate([Allocation(nodes, 1, 2)], nodes, Scores(torch.tensor([0.1, torch.nan]), lambda: None), None)
