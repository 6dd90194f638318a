"""Bytes that plans request: against the floor, against other ways of decoding, and under the targets set for them."""

import random
from statistics import median

import numpy as np
import pytest
import torch

from tts_kernels.accounting import Call
from tts_kernels.plan import make_plan
from tts_kernels.processors import PROCESSORS, AttentionShape, fewest_bytes
from tts_kernels.testing.trees import FASTTREE, TreeShape, balanced, random_shape

LEAST = fewest_bytes(PROCESSORS["h100"])


def planned(shape, heads, processor=LEAST, page_size=8, growth=0):
    forest, leaves = shape.grow(page_size)
    ones = np.ones(len(leaves), np.int32)
    attention = AttentionShape(*heads, 128, torch.bfloat16)
    return Call(make_plan(forest, leaves, ones, shape=attention, processor=processor, growth=growth), attention, ones)


def ratio(call):
    return call.ours().total / call.floor().total


def test_counts_of_a_small_tree():
    """A root of 16 tokens, two leaves of 8: everything can be said by hand."""
    call = planned(balanced((1, 2), (16, 8)), (4, 2))
    token, row = 2 * 2 * 128 * 2, 4 * 128 * 2
    assert call.floor().kv == call.ours().kv == 32 * token
    assert call.floor().q == call.floor().out == call.ours().q == 2 * row
    assert call.ours().parts == 0
    assert call.unshared().kv == 2 * 24 * token
    # Concatenation reads 23 and writes 24, expansion reads 24 and writes 48, attention reads 48 of each leaf.
    assert (call.hugging_face().copied, call.hugging_face().kv) == (2 * (23 + 24 + 24 + 48) * token, 2 * 48 * token)
    # Two levels: two parts of each row are written, both are read and their join is written.
    assert call.cascade().parts == 2 * 4 * (row + 4 * 4)
    assert (call.cascade().launches, call.cascade().kv) == (3, 32 * token)


def test_parts_are_counted_where_paths_are_cut():
    """Units of at most 64 tokens: a path of 160 tokens is read in three, and two parts come and go."""
    forest, leaves = balanced((1,), (160,)).grow()
    attention = AttentionShape(8, 2, 128, torch.bfloat16)
    plan = make_plan(forest, leaves, [1], shape=attention, split_tokens=64)
    moved = Call(plan, attention, np.ones(1, np.int32)).ours()
    assert len(plan.units) == 3
    assert moved.parts == 2 * 2 * 8 * (128 * 2 + 4)
    assert moved.q == 3 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("heads", "limit"), [((32, 32), 1.02), ((32, 8), 1.12), ((64, 8), 1.25), ((16, 1), 1.40)], ids=str
)
def test_trees_of_the_literature_are_read_almost_once(heads, limit):
    assert median(ratio(planned(shape, heads)) for shape in FASTTREE) <= limit


@pytest.mark.parametrize("heads", [(32, 32), (32, 8), (16, 1)], ids=str)
def test_never_more_than_the_best_of_the_others(heads):
    rng = random.Random(0)
    shapes = [*FASTTREE, *(random_shape(rng) for _ in range(1000))]
    for shape in shapes:
        call = planned(shape, heads)
        best = min(getattr(call, name)().total for name in ("cascade", "per_level", "unshared"))
        assert call.ours().total <= best, shape
        assert call.ours().total >= call.floor().total


def test_the_fastest_plan_fills_the_processor_and_pays_for_it_in_bytes():
    shape = balanced((1, 16, 64), (1024, 256, 32))
    fast, least = planned(shape, (32, 8), PROCESSORS["h100"]), planned(shape, (32, 8))
    assert fast.plan.host.ns < least.plan.host.ns
    assert ratio(fast) > ratio(least)
    assert len(fast.plan.units) * 8 >= 66


def test_what_is_seen_counts_not_what_may_be_filled():
    shape = TreeShape("two", (-1, 0, 0), (20, 5, 3))
    one, grown = planned(shape, (4, 4), page_size=4), planned(shape, (4, 4), page_size=4, growth=40)
    assert one.ours() == grown.ours()
    assert one.floor().kv == (20 + 5 + 3) * 4 * 512
