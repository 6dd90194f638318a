"""What the kernel of tree_attention reads, and what it leaves behind, in the interpreter."""

from dataclasses import replace

import pytest
import torch

from tts_kernels import _ext

if not _ext.triton_interpreted():
    pytest.skip("needs the process with TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")

from tts_kernels.ops.tree_attention import _triton, tree_attention
from tts_kernels.ops.tree_attention._triton_tiles import Tiles
from tts_kernels.testing import assert_matches_oracle
from tts_kernels.testing.meter import Meter
from tts_kernels.testing.plans import Shape, random_case

MANY_PARTS = Shape(nodes=10, node_tokens=20, page_size=4, tile_rows=5, layers=5, q_heads=6, head_dim=32, row_tokens=2)


def run(case, plan=None, **options):
    args = (case.q, case.k_pages, case.v_pages, case.plan if plan is None else plan)
    return tree_attention(*args, return_lse=True, backend="triton", **options)


def counters(plan):
    return [space[-1] for space in plan.workspaces.values()]


def assert_same_bits(one, two):
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.view(torch.uint8), b.view(torch.uint8))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_who_comes_last_does_not_show(dtype):
    """The same bits whatever the order in which the units run; counters are zero after each launch."""
    case = random_case(MANY_PARTS, dtype, "cpu", seed=3)
    assert (case.plan.join_ptr.diff() > 2).any()
    sinks, first = torch.arange(6.0) - 3, None
    for seed in range(4):
        order = torch.randperm(len(case.plan.units), generator=torch.Generator().manual_seed(seed))
        plan = replace(case.plan, units=case.plan.units[order], unit_reads=case.plan.unit_reads[order])
        result = run(case, plan, sinks=sinks)
        first = result if first is None else first
        assert_same_bits(result, first)
        assert len(counters(plan)) == 1
        assert not counters(plan)[0].any()


def test_a_plan_is_used_again_and_again():
    """The workspace is made once; what it holds from the launch before does not show."""
    case = random_case(MANY_PARTS, torch.bfloat16, "cpu", seed=4)
    first = run(case)
    (space,) = case.plan.workspaces.values()
    for tensor in space[:2]:
        tensor.fill_(torch.nan)
    assert_same_bits(run(case), first)
    assert case.plan.workspaces[next(iter(case.plan.workspaces))] is space


def test_units_without_rows_do_nothing():
    """Plans are padded to a capacity with units [x, x)."""
    case = random_case(MANY_PARTS, torch.float16, "cpu", seed=5)
    plan = case.plan
    padding = torch.tensor([[3, 3, 0, 0, -1]] * 4, dtype=torch.int32)
    reads = torch.tensor([[0, 0]] * 4, dtype=torch.int32)
    padded = replace(plan, units=torch.cat([plan.units, padding]), unit_reads=torch.cat([plan.unit_reads, reads]))
    assert_same_bits(run(case, padded), run(case))


@pytest.mark.parametrize("wide", [16, 32, 64])
def test_units_taller_than_a_tile(monkeypatch, wide):
    """Several row tiles per unit, joined and not, with a group that does not divide the tile."""
    case = random_case(
        replace(MANY_PARTS, tile_rows=40, row_tokens=20, full=True, layers=2), torch.float32, "cpu", seed=6
    )
    assert case.plan.max_unit_rows * 3 > 64
    same = tree_attention(case.q, case.k_pages, case.v_pages, case.plan, return_lse=True, backend="reference", window=9)
    monkeypatch.setattr(_triton, "tallest", lambda *_: Tiles(wide, 32, 16, 8, 2))
    for got, oracle, reference in zip(run(case, window=9), case.oracle(window=9), same, strict=True):
        assert_matches_oracle(got, oracle, reference, f"wide {wide}")


def test_company_does_not_show_in_an_invariant_plan():
    """One row, a few, and many in a unit: a row's bits stay the same."""
    shape = Shape(nodes=1, node_tokens=70, row_tokens=60, full=True, layers=1, tile_rows=100, head_dim=32, kv_heads=1)
    case = random_case(shape, torch.bfloat16, "cpu", seed=7)
    plan = replace(case.plan, invariant=True)
    together = run(case, plan)
    for row in (0, 7, 58):
        units = plan.units.clone()
        units[:, 4] += torch.where(units[:, 4] < 0, 0, row - units[:, 0])
        units[:, :2] = torch.tensor([row, row + 1])
        alone = replace(plan, units=units, max_unit_rows=1)
        assert_same_bits([x[row] for x in run(case, alone)], [x[row] for x in together])


def test_every_key_is_read_once_per_unit_and_head():
    """Bytes of K and V: the keys that exist, for each unit that lists them; none twice, no race, nothing outside."""
    case = random_case(replace(MANY_PARTS, layers=2, tile_rows=8), torch.bfloat16, "cpu", seed=8)
    plan, keys = case.plan, 0
    for begin, end in plan.unit_reads.tolist():
        for _, base, _, row_end in plan.reads[begin:end].tolist():
            keys += max(0, min(plan.page_size, int(plan.row_pos[row_end - 1]) + 1 - base))
    with Meter() as meter:
        run(case)
    heads, dim = case.k_pages.shape[1], case.k_pages.shape[3]
    for name in ("k_ptr", "v_ptr"):
        assert meter.traffic(name, "load").requested == keys * heads * dim * 2
    assert meter.races == []


def test_a_part_that_comes_last_is_not_stored():
    """Of a row's parts all but one pass the memory."""
    case = random_case(MANY_PARTS, torch.bfloat16, "cpu", seed=9)
    with Meter() as meter:
        run(case)
    parts = case.plan.join_ptr.diff()
    heads, dim = case.q.shape[1:]
    passed = int((parts - (parts > 0).int()).sum()) * heads * dim * 2
    assert meter.traffic("part_out_ptr", "store").requested == passed
    assert meter.traffic("part_out_ptr", "load").requested == passed
