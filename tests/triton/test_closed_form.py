"""The bytes that the kernel of tree_attention requests, said from the plan alone: equal to the meter's, to the byte."""

from random import Random

import numpy as np
import pytest
import torch

from tts_kernels import _ext

if not _ext.triton_interpreted():
    pytest.skip("needs the process with TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")

from tts_kernels.accounting import Call, seen
from tts_kernels.ops.tree_attention import _triton, tree_attention
from tts_kernels.ops.tree_attention._options import Options
from tts_kernels.plan import make_plan
from tts_kernels.processors import PROCESSORS, AttentionShape, fewest_bytes
from tts_kernels.testing import peaky
from tts_kernels.testing.meter import Meter
from tts_kernels.testing.trees import TreeShape, balanced, random_shape

KINDS = ("load", "store", "atomic")


def expected(plan, shape, constants, window):
    """(tensor, kind) -> bytes, for all programs of a launch without sinks and scales."""
    group, heads, size = shape.group, shape.kv_heads, shape.dtype.itemsize
    row, row_pos, dim = group * shape.head_dim * size, plan.host.row_pos, shape.head_dim
    rows_per_tile = constants["WIDE"] // group
    tiles = -(-plan.max_unit_rows // rows_per_tile)
    counts = np.diff(plan.join_ptr.numpy()).astype(int)
    found = {}

    def add(tensor, kind, amount):
        found[tensor, kind] = found.get((tensor, kind), 0) + int(amount)

    joined_by = {}
    for unit, (row_begin, row_end, _, _, part_begin) in enumerate(plan.units.tolist()):
        reads = plan.reads[slice(*plan.unit_reads[unit].tolist())].numpy()
        for tile in range(tiles):
            add("units_ptr", "load", 8)
            first = row_begin + tile * rows_per_tile
            rows = np.arange(first, min(row_end, first + rows_per_tile))
            if len(rows) == 0:
                continue
            add("units_ptr", "load", 4)
            add("unit_reads_ptr", "load", 8)
            keys = len(reads) * plan.page_size
            add("reads_ptr", "load", 32 * keys)
            add("pages_ptr", "load", 4 * keys)
            add("row_pos_ptr", "load", 4 * keys + 4 * group * len(rows))
            low = int(row_pos[rows].min()) - window if window else -1
            ends = np.minimum(row_pos[reads[:, 3] - 1] + 1 - reads[:, 1], plan.page_size)
            begins = np.clip(low + 1 - reads[:, 1], 0, None)
            visible = np.maximum(ends - begins, 0).sum()
            for tensor in ("k_ptr", "v_ptr"):
                add(tensor, "load", visible * dim * size)
            add("q_ptr", "load", len(rows) * row)
            add("join_bounds_ptr", "load", 8 * group * len(rows))
            joined = rows[counts[rows] > 0]
            add("out_ptr", "store", (len(rows) - len(joined)) * row)
            add("lse_ptr", "store", (len(rows) - len(joined)) * 4 * group)
            if part_begin < 0:
                continue
            add("counters_ptr", "atomic", 4 * len(joined))
            for r in joined.tolist():
                joined_by.setdefault(r, []).append(len(rows))
    for r, tiles_of_row in joined_by.items():
        parts = len(tiles_of_row)
        assert parts == counts[r]
        add("part_out_ptr", "store", (parts - 1) * row)
        add("part_lse_ptr", "store", (parts - 1) * 4 * group)
        add("counters_ptr", "atomic", 4 * (parts - 1))
        add("counters_ptr", "store", 4)
        # A large tile is joined in pieces, each with the lse and slots of its rows. The last unit of the launch joins.
        pieces = max(1, block_rows(tiles_of_row[-1] * group, constants) * constants["BLOCK_D"] // 8192)
        add("part_out_ptr", "load", (parts - 1) * row)
        add("part_lse_ptr", "load", (parts - 1) * 4 * group * pieces)
        add("join_slots_ptr", "load", parts * 4 * group * pieces)
        add("out_ptr", "store", row)
        add("lse_ptr", "store", 4 * group * pieces)
    return {key: amount * heads for key, amount in found.items() if amount}


def block_rows(matrix_rows, constants):
    """Matrix rows of the tile that the kernel takes for so many."""
    steps = [step for step in (16, 64) if constants["NARROW"] <= step < constants["WIDE"]]
    return next((step for step in steps if matrix_rows <= step), constants["WIDE"])


def metered(shape, attention, processor, window=0, page_size=4, **options):
    forest, leaves = shape.grow(page_size)
    ones = np.ones(len(leaves), np.int32)
    plan = make_plan(forest, leaves, ones, shape=attention, processor=processor, page_reads=True, **options)
    highest = max(int(forest.page_table(int(leaf)).max()) for leaf in leaves) + 1
    generator = torch.Generator().manual_seed(0)
    sizes = (highest, attention.kv_heads, page_size, attention.head_dim)
    k, v = (peaky(*sizes, generator=generator, dtype=attention.dtype) for _ in "kv")
    q = peaky(len(leaves), attention.q_heads, attention.head_dim, generator=generator, dtype=attention.dtype)
    with Meter() as meter:
        tree_attention(q, k, v, plan, window=window, backend="triton")
    (launch,) = meter.launches
    assert not meter.races
    constants = _triton._constants(q, k, plan, Options(1.0, 0.0, window, None, None, None))
    return Call(plan, attention, ones), launch, expected(plan, attention, constants, window), constants


def compare(launch, wanted):
    got = {key: traffic.requested for key, traffic in launch.table().items()}
    assert {key: got.get(key, 0) for key in wanted | got} == {key: wanted.get(key, 0) for key in wanted | got}


H100 = PROCESSORS["h100"]
CASES = [
    (balanced((1, 2, 6), (24, 8, 9)), (8, 2, 16), {}),
    (balanced((1, 2, 6), (24, 8, 9)), (8, 2, 16), {"growth": 9}),
    (balanced((2, 4), (30, 5)), (3, 3, 16), {"split_tokens": 8}),
    (balanced((1, 9), (20, 3)), (7, 1, 24), {"split_tokens": 12, "tile_rows": 4}),
    (balanced((1, 30), (8, 1)), (32, 2, 16), {}),
    (TreeShape("uneven", (-1, 0, 0, 1, 1, 4, 4, -1), (11, 3, 20, 1, 6, 2, 9, 5)), (4, 2, 16), {"window": 6}),
    (TreeShape("uneven", (-1, 0, 0, 1, 1, 4, 4, -1), (11, 3, 20, 1, 6, 2, 9, 5)), (4, 2, 16), {"invariant": True}),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("processor", [H100, fewest_bytes(H100)], ids=["fastest", "fewest"])
@pytest.mark.parametrize(("shape", "heads", "options"), CASES, ids=str)
def test_meter_and_closed_form_agree(shape, heads, options, processor, dtype):
    call, launch, wanted, constants = metered(shape, AttentionShape(*heads, dtype), processor, **options)
    compare(launch, wanted)
    if "window" not in options:
        moved = call.ours(tile=constants["WIDE"])
        assert moved.kv == wanted["k_ptr", "load"] + wanted["v_ptr", "load"]
        assert (moved.q, moved.out) == (wanted["q_ptr", "load"], wanted["out_ptr", "store"])
        parts = [amount for (tensor, _), amount in wanted.items() if tensor.startswith("part_out")]
        assert moved.parts - sum(parts) == 2 * 4 * call.shape.q_heads * (len(call.plan.join_slots) - joined_rows(call))
        assert call.plan.host.runs.size == 0 or seen(call.plan.host.runs, call.row_pos).sum() > 0


def joined_rows(call):
    return int((call.plan.join_ptr.diff() > 0).sum())


@pytest.mark.parametrize("seed", range(6))
def test_random_forests(seed):
    shape = random_shape(Random(seed))
    small = TreeShape(shape.name, shape.parents[:14], tuple(1 + tokens % 23 for tokens in shape.tokens[:14]))
    options = {"split_tokens": (0, 16, 40)[seed % 3], "growth": (0, 5)[seed % 2]}
    compare(*metered(small, AttentionShape(4, 2, 16, torch.bfloat16), H100, **options)[1:3])
