"""Plans against their naive expansion: what each row reads must be its path, once."""

import random

import pytest
import torch
from host_helpers import check_joins, check_page_reads, check_reads, check_structure, depth_first, expand, grow_forest
from hypothesis import given, settings
from hypothesis import strategies as st

from tts_kernels import _ext
from tts_kernels.plan import POISON_PAGE, make_plan
from tts_kernels.processors import PROCESSORS, AttentionShape, fewest_bytes

host = _ext.host()
SEEDS = st.integers(0, 2**32)
PAGE_SIZES = st.sampled_from([1, 4, 16])
TILE_ROWS = st.sampled_from([1, 2, 3, 8, 32])
SPLIT_TOKENS = st.sampled_from([1, 8, 20, 48, 512])


def draw_leaves(rng, forest, held):
    """Some held nodes, shuffled or depth-first, and for each how many rows it has (possibly none)."""
    leaves = rng.sample(held, rng.randint(0, len(held)))
    if rng.random() < 0.5:
        leaves = depth_first(forest, leaves)
    most = rng.choice([1, 3, 1000])
    return leaves, [rng.randint(0, min(most, length)) for length in forest.length(leaves).tolist()]


def tree(page_size, widths, tokens):
    """One tree, level by level: widths[i] children per node, tokens[i] tokens per node. Returns forest and leaves."""
    forest = host.Forest(8192, page_size)
    level = forest.add_roots(1)
    forest.append(level, [tokens[0]])
    for width, count in zip(widths, tokens[1:], strict=True):
        level, _, _ = forest.fork(level, [width] * len(level))
        forest.append(level, [count] * len(level))
    return forest, level.tolist()


@given(SEEDS, PAGE_SIZES, TILE_ROWS, SPLIT_TOKENS, st.sampled_from([0, 1, 20]))
@settings(max_examples=200, deadline=None)
def test_every_row_reads_its_path_once(seed, page_size, tile_rows, split_tokens, growth):
    rng = random.Random(seed)
    forest, held = grow_forest(host, rng, page_size)
    leaves, counts = draw_leaves(rng, forest, held)
    limits = {"tile_rows": tile_rows, "split_tokens": split_tokens}
    plan = make_plan(forest, leaves, counts, growth=growth, page_reads=True, **limits)
    check_reads(plan, forest, leaves, counts)
    check_reads(plan, forest, leaves, counts, window=rng.randint(1, 40))
    check_structure(plan, tile_rows, split_tokens, growth)
    check_joins(plan)
    check_page_reads(plan)


@given(SEEDS, PAGE_SIZES, st.sampled_from(["cpu", "h100"]), st.booleans(), st.sampled_from([0, 1, 20]))
@settings(max_examples=200, deadline=None)
def test_plans_of_the_cost_model_read_every_path_once(seed, page_size, processor, invariant, growth):
    rng = random.Random(seed)
    forest, held = grow_forest(host, rng, page_size)
    leaves, counts = draw_leaves(rng, forest, held)
    shape = AttentionShape(q_heads=rng.choice([1, 4, 64]), kv_heads=1)
    plan = make_plan(
        forest, leaves, counts, growth=growth, shape=shape, processor=PROCESSORS[processor], invariant=invariant
    )
    check_reads(plan, forest, leaves, counts)
    check_joins(plan)
    check_structure(plan, 1000, 100_000, growth)


@given(SEEDS, PAGE_SIZES, TILE_ROWS, SPLIT_TOKENS)
@settings(max_examples=100, deadline=None)
def test_update_follows_appends(seed, page_size, tile_rows, split_tokens):
    rng = random.Random(seed)
    forest, held = grow_forest(host, rng, page_size)
    leaves, _ = draw_leaves(rng, forest, [n for n in held if forest.num_children(n) == 0])
    forest.append(leaves, [1] * len(leaves))
    growth = rng.randint(1, 2 * page_size + 2)
    counts = [1] * len(leaves)
    limits = {"tile_rows": tile_rows, "split_tokens": split_tokens, "invariant": rng.random() < 0.3}
    plan = make_plan(forest, leaves, counts, growth=growth, page_reads=True, **limits)
    for _ in range(growth):
        before = plan.pages.clone()
        if rng.random() < 0.2:
            forest.reserve(leaves, [rng.randint(0, growth) for _ in leaves])
        forest.append(leaves, counts)
        assert plan.update(forest) == (not torch.equal(before, plan.pages))
        check_reads(plan, forest, leaves, counts)
        check_joins(plan)
        check_page_reads(plan)
    assert not plan.update(forest)
    if leaves:
        positions = plan.row_pos.clone()
        forest.append(leaves[-1:], [1])
        with pytest.raises(ValueError, match=rf"update: leaves\[{len(leaves) - 1}\] = {leaves[-1]} must be at most"):
            plan.update(forest)
        assert torch.equal(plan.row_pos, positions)


@pytest.mark.parametrize("change", ["add_roots", "fork", "release", "truncate"])
def test_stale_plans_are_refused(change):
    forest, leaves = tree(4, [2], [5, 1])
    plan = make_plan(forest, leaves, [1, 1], growth=4)
    calls = {"add_roots": (1,), "fork": ([leaves[0]], [2]), "release": ([leaves[0]],), "truncate": (leaves, [0, 1])}
    getattr(forest, change)(*calls[change])
    with pytest.raises(ValueError, match="update: stale plan: made at forest version 2, got version 3"):
        plan.update(forest)


def test_a_plan_follows_its_own_forest_only():
    (forest, leaves), (other, _) = tree(4, [2], [5, 1]), tree(4, [2], [5, 1])
    plan = make_plan(forest, leaves, [1, 1])
    with pytest.raises(ValueError, match="update: forest must be the one"):
        plan.update(other)


def test_depth_first_order_shares_and_any_order_lists_pages_once():
    forest, leaves = tree(4, [2, 2, 2], [32, 8, 8, 8])
    ones = [1] * len(leaves)
    shared = make_plan(forest, leaves, ones)
    assert shared.units.tolist() == [[0, 8, 0, 15, -1]] and shared.num_slots == 0
    assert shared.runs[0].tolist() == [0, 8, 0, 0, 32]
    shuffled = make_plan(forest, leaves[::2] + leaves[1::2], ones)
    assert len(shuffled.runs) > 15 and len(shuffled.pages) == len(shared.pages)


def test_long_runs_are_cut_evenly_and_rows_that_do_not_fit_get_tiles_of_their_own():
    forest, leaves = tree(16, [64], [2048 + 16, 16])
    plan = make_plan(forest, leaves, [1] * 64, tile_rows=32, split_tokens=528)
    own = plan.units[plan.units[:, 3] - plan.units[:, 2] == 1].tolist()
    # 129 pages for two tiles of rows: 4 even splits each; the leaves' own pages fit into one unit per tile.
    assert sorted(unit[:2] for unit in own) == [[0, 32]] * 4 + [[32, 64]] * 4
    assert sorted(plan.runs[:, 4].tolist())[-8:] == [32 * 16] * 6 + [33 * 16] * 2
    assert plan.num_slots == 5 * 64 and plan.join_ptr.tolist() == [5 * row for row in range(65)]


def test_tiles_end_where_few_ancestors_are_shared():
    forest, leaves = tree(4, [3, 3, 3, 3], [4] * 5)
    plan = make_plan(forest, leaves, [1] * 81, tile_rows=32)
    assert plan.units[:, :2].tolist() == [[0, 27], [27, 54], [54, 81]]


def test_a_caterpillar_does_not_get_a_tile_per_row():
    forest = host.Forest(4096, 4)
    spine = forest.add_roots(1)
    leaves = []
    for _ in range(64):
        forest.append(spine, [4])
        children, _, _ = forest.fork(spine, [2])
        leaves.append(int(children[0]))
        spine = children[1:]
    forest.append(leaves, [1] * 64)
    plan = make_plan(forest, leaves, [1] * 64, tile_rows=32, processor=fewest_bytes(PROCESSORS["cpu"]))
    # The spine is read once by each tile, in its tile or in a unit of its own.
    assert len(plan.units) <= 4 and int(plan.runs[:, 4].sum()) < 1.6 * 64 * 8


def test_prefill_skips_what_lies_after_a_tile():
    forest, (leaf,) = tree(4, [], [100])
    plan = make_plan(forest, [leaf], [100], tile_rows=10, split_tokens=20)
    assert int(plan.runs[:, 4].sum()) == sum(-(-(row + 10) // 4) * 4 for row in range(0, 100, 10))
    whole = make_plan(forest, [leaf], [100], tile_rows=10, split_tokens=20, growth=1)
    assert int(whole.runs[:, 4].sum()) == 10 * 104


def test_rows_of_a_leaf_that_does_not_fill_tiles_are_cut_evenly():
    forest, (leaf,) = tree(4, [], [33])
    plan = make_plan(forest, [leaf], [33], tile_rows=32)
    assert plan.units[:, :2].tolist() == [[0, 16], [16, 33]]


def test_a_chain_of_steps_is_one_run():
    forest, leaves = tree(4, [2] + [1] * 20, [6] * 22)
    plan = make_plan(forest, leaves, [1, 1], growth=3)
    assert plan.runs.tolist() == [[0, 2, 0, 0, 4], [0, 1, 1, 4, 132], [1, 2, 34, 4, 132]]
    check_reads(plan, forest, leaves, [1, 1])


def test_future_pages_are_poison_and_empty_calls_are_plans():
    forest, leaves = tree(4, [2], [5, 1])
    plan = make_plan(forest, leaves, [1, 1], growth=7)
    assert plan.pages.tolist().count(POISON_PAGE) == 4
    for empty in (make_plan(forest, [], []), make_plan(forest, leaves, [0, 0], growth=3)):
        assert (empty.num_rows, empty.num_slots, empty.join_ptr.tolist()) == (0, 0, [0])
        assert empty.units.shape == empty.runs.shape == (0, 5) and not empty.update(forest)


def test_tensors_are_the_hosts_memory_and_outlive_their_makers(device):
    forest, leaves = tree(4, [3], [9, 2])
    plan = make_plan(forest, leaves, [1, 2, 1], growth=4, split_tokens=4, page_reads=True, device=device)
    names = ("units", "runs", "pages", "row_pos", "join_ptr", "join_slots", "reads", "unit_reads")
    tensors = [getattr(plan, name) for name in names]
    assert all(t.dtype == torch.int32 and t.is_contiguous() and t.device.type == device.type for t in tensors)
    addresses = [t.data_ptr() for t in tensors]
    if device.type == "cpu":
        assert addresses == [getattr(plan.host, name).ctypes.data for name in names]
    forest.append(leaves, [3, 3, 3])
    assert plan.update(forest)
    assert addresses == [t.data_ptr() for t in tensors]
    assert all(torch.equal(getattr(plan, n).cpu(), torch.from_numpy(getattr(plan.host, n))) for n in names)
    row_pos = plan.row_pos
    del plan, forest, tensors
    assert row_pos.tolist() == [13, 12, 13, 13]


@pytest.mark.parametrize(
    ("args", "kwargs", "text"),
    [
        (([1, 1], [1, 1]), {}, r"make_plan: leaves\[1\] = 1 is named twice"),
        (([0], [1]), {}, r"make_plan: leaves\[0\] = 0 is not held"),
        (([9], [1]), {}, r"make_plan: leaves\[0\] = 9 is not a live node"),
        (([1, 2], [1, 7]), {}, r"make_plan: counts\[1\] must be 0..6, the length of leaf 2, got 7"),
        (([1, 2], [1, -1]), {}, r"make_plan: counts\[1\] must be 0..6, the length of leaf 2, got -1"),
        (([1, 2], [1]), {}, r"make_plan: counts must be \[2\] like leaves, got \[1\]"),
        (([1], [1]), {"growth": -1}, "make_plan: growth must be >= 0, got -1"),
        (([1], [1]), {"growth": 2**31 - 1}, r"make_plan: a leaf's length \+ growth must be < 2\*\*31"),
        (([1], [1]), {"growth": 2**31}, "make_plan: growth must fit int32"),
        (([1], [1]), {"tile_rows": -1}, "make_plan: tile_rows must be >= 0, got -1"),
        (([1], [1]), {"split_tokens": -1}, "make_plan: split_tokens must be >= 0, got -1"),
    ],
)
def test_bad_input_is_named(args, kwargs, text):
    forest, _ = tree(4, [2], [5, 1])
    with pytest.raises(ValueError, match=text):
        make_plan(forest, *args, **kwargs)


def test_without_the_host_core_the_reason_is_given(monkeypatch):
    forest, leaves = tree(4, [2], [5, 1])
    monkeypatch.setattr(_ext, "_load", lambda name: (None, "installed with TTS_BUILD_EXT=0"))
    with pytest.raises(RuntimeError, match="TTS_BUILD_EXT=0"):
        make_plan(forest, leaves, [1, 1])


def test_rows_may_lie_before_the_leafs_own_pages():
    forest, leaves = tree(4, [2], [10, 1])
    plan = make_plan(forest, leaves, [7, 11])
    check_reads(plan, forest, leaves, [7, 11])
    assert {page for reads in expand(plan) for _, _, page, _ in reads} == set(range(4))
