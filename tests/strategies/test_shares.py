"""Every rule gives away its budget exactly, whatever the scores."""

import math
import random

import pytest
import torch

from tts_kernels.ops.select_children import RULES
from tts_kernels.scorers import Scores
from tts_kernels.strategies import Allocation, allocate
from tts_kernels.tree import Node


def some_scores(draw):
    """A vector of one of many kinds: plain, tied, all equal, next to each other, extreme, infinite."""
    size = draw.randint(1, 12)
    kinds = {
        "plain": draw.random,
        "tied": lambda: draw.randrange(3) / 2,
        "equal": lambda: 0.3,
        "neighbours": lambda: 1.0 - draw.randrange(4) * 2.0**-24,
        "extreme": lambda: draw.choice([-3e38, -1e-38, 0.0, 1e-45, 1.0, 3e38]),
        "infinite": lambda: draw.choice([-math.inf, 0.5, 0.25]),
        "hopeless": lambda: -math.inf,
        "logits": lambda: draw.gauss(0.0, 30.0),
    }
    one = draw.choice(list(kinds.values()))
    return [one() for _ in range(size)]


@pytest.fixture(scope="module")
def vectors():
    draw = random.Random(0)
    return [[Node(0, -1, (), 0, 0, score=score) for score in some_scores(draw)] for _ in range(10_000)]


@pytest.mark.parametrize("rule", RULES)
def test_ten_thousand_allocations_sum_to_their_budgets(vectors, rule):
    """Nobody but the best ``keep`` has children, and nobody has fewer than one who scores less."""
    draw = random.Random(rule)
    allocations = [
        Allocation(nodes, draw.choice([1, 2, 5, 99]), draw.choice([1, 2, 3, 16, 64, 1000]), rule, draw.choice([0.1, 1]))
        for nodes in vectors
    ]
    new = [node for nodes in vectors for node in nodes]
    scores = Scores(torch.tensor([node.score for node in new], dtype=torch.float32), lambda: None)
    for each, widths in zip(allocations, allocate(allocations, new, scores, None), strict=True):
        assert sum(widths) == each.budget
        order = sorted(range(len(widths)), key=lambda i: -each.candidates[i].score)
        falling = [widths[i] for i in order]
        assert falling == sorted(falling, reverse=True)
        assert not any(falling[each.keep :]) and falling[-1] >= 0


@pytest.mark.parametrize("rule", RULES)
def test_a_share_does_not_depend_on_the_others_in_the_call(rule):
    draw = random.Random(0)
    allocations = []
    for _ in range(60):
        members = [Node(0, -1, (), 0, 0, score=score) for score in some_scores(draw)]
        allocations.append(Allocation(members, 3, 17, rule, draw.choice([0.1, 0.5])))
    together = allocate(allocations, [], None, "reference")
    assert together == [allocate([each], [], None, "reference")[0] for each in allocations]


def test_nan_of_an_older_node_is_refused():
    new, old = [Node(0, -1, (), 0, 0)], [Node(0, -1, (), 0, 0, score=math.nan)]
    scores = Scores(torch.tensor([0.5]), lambda: None)
    for rule in RULES:
        with pytest.raises(ValueError, match="scores must not be NaN, got NaN for candidate 1"):
            allocate([Allocation([*new, *old], 1, 2, rule)], new, scores, "reference")
