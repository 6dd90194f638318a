"""What the attention kernel moves, counted while it runs: the plan's bytes, in vectors, without bank conflicts."""

from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
import torch

from tts_kernels.accounting import Call
from tts_kernels.ops.tree_attention import tree_attention
from tts_kernels.plan import make_plan
from tts_kernels.processors import PROCESSORS, AttentionShape, fewest_bytes
from tts_kernels.testing import assert_matches_oracle, peaky
from tts_kernels.testing.trees import TreeShape, balanced, random_shape

H100 = PROCESSORS["h100"]
UNEVEN = TreeShape("uneven", (-1, 0, 0, 1, 1, 4, 4, -1), (11, 3, 20, 1, 6, 2, 9, 5))
CASES = [
    (balanced((1, 2, 6), (24, 8, 9)), (8, 2), {}),
    (balanced((1, 2, 6), (24, 8, 9)), (8, 2), {"growth": 9}),
    (balanced((2, 4), (30, 5)), (3, 3), {"split_tokens": 8}),
    (balanced((1, 9), (20, 3)), (7, 1), {"split_tokens": 12, "tile_rows": 4}),
    (balanced((1, 70), (80, 1)), (32, 8), {}),
    (balanced((1, 40), (70, 5)), (32, 4), {}),
    (UNEVEN, (4, 2), {}),
]


@dataclass(frozen=True)
class Launch:
    """Bytes by argument of the op. narrow: requests for queries, keys and values of less than 16 bytes per lane.

    matrix_requests, conflicts: of copies into shared memory and matrix loads out of it, and the wavefronts in excess.
    """

    loads: dict[str, int]
    stores: dict[str, int]
    narrow: int
    matrix_requests: int
    conflicts: int


def from_shim(launch):
    tensors = launch.tensors
    narrow = sum(tensors[x].load_requests - tensors[x].wide_requests for x in ("q", "k_pages", "v_pages"))
    shared = [launch.shared["copied"], launch.shared["matrix"]]
    loads = {name: traffic.load_bytes for name, traffic in tensors.items()}
    stores = {name: traffic.store_bytes for name, traffic in tensors.items()}
    return Launch(loads, stores, narrow, sum(x.requests for x in shared), sum(x.conflicts for x in shared))


def from_interpreter(counts):
    # Copies move vectors from global to shared memory; the arithmetic has a file of its own.
    lines = [
        numbers for line, numbers in counts.lines.items()
        if numbers["shared_requests"] and (numbers["wide"] or line.startswith("tree_attention_rows.h"))
    ]  # fmt: skip
    conflicts = sum(x["wavefronts"] - x["ideal_wavefronts"] for x in lines)
    return Launch(counts.loads, counts.stores, 0, sum(x["shared_requests"] for x in lines), conflicts)


@pytest.fixture(params=["shim", "interpreter"])
def executed(request):
    """Runs a call and counts; by default with the kernels of the H100."""
    modes = request.config.getoption("cuda_sources").split(",")
    mode = "late" if request.param == "shim" else "ptx"
    if mode not in modes:
        pytest.skip(f"needs the process with --cuda-sources {mode}")
    from execution import Execution

    def run_and_count(arguments, capability=90, **options):
        with Execution(mode, count=True, capability=capability) as run:
            out = tree_attention(*arguments, backend="native", **options)
        if mode == "ptx":
            (counts,) = run.interpreted.values()
            return out, from_interpreter(counts)
        (launch,) = run.launches
        return out, from_shim(launch)

    return run_and_count


def problem(shape, heads, dtype, processor=H100, head_dim=64, page_size=4, **options):
    attention = AttentionShape(*heads, head_dim, dtype)
    forest, leaves = shape.grow(page_size)
    ones = np.ones(len(leaves), np.int32)
    plan = make_plan(forest, leaves, ones, shape=attention, processor=processor, page_reads=True, **options)
    highest = max(int(forest.page_table(int(leaf)).max()) for leaf in leaves) + 1
    generator = torch.Generator().manual_seed(0)
    k, v = (peaky(highest, heads[1], page_size, head_dim, generator=generator, dtype=dtype) for _ in "kv")
    q = peaky(len(leaves), heads[0], head_dim, generator=generator, dtype=dtype)
    return Call(plan, attention, ones), (q, k, v, plan)


def tile_of(call, capability):
    """Matrix rows of the tile that the launcher takes: 256 of 128 columns do not fit the shared memory of 8.6."""
    rows = call.plan.max_unit_rows * call.shape.group
    if call.shape.dtype == torch.float32 or call.shape.head_dim > 128:
        return 16 if rows <= 16 else 64
    return 16 if rows <= 16 else 256 if rows > 128 and (call.shape.head_dim <= 64 or capability == 90) else 128


def check_bytes(launch, call, capability):
    loads, stores, plan, shape = launch.loads, launch.stores, call.plan, call.shape
    moved = call.ours(tile=tile_of(call, capability))
    assert loads["k_pages"] == loads["v_pages"] == moved.kv // 2
    assert (loads["q"], stores["out"]) == (moved.q, moved.out)
    parts = np.maximum(np.diff(plan.join_ptr.numpy()).astype(int) - 1, 0).sum()
    assert stores.get("part_out", 0) == loads.get("part_out", 0) == parts * shape.kv_heads * shape.row_bytes
    assert stores.get("part_lse", 0) == loads.get("part_lse", 0) == parts * shape.q_heads * 4
    assert stores["lse"] == call.rows * shape.q_heads * 4
    assert launch.narrow == 0


@pytest.mark.parametrize("capability", [86, 90])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("processor", [H100, fewest_bytes(H100)], ids=["fastest", "fewest"])
@pytest.mark.parametrize(("shape", "heads", "options"), CASES, ids=str)
def test_bytes_are_those_of_the_plan(executed, shape, heads, options, processor, dtype, capability):
    call, arguments = problem(shape, heads, dtype, processor, **options)
    check_bytes(executed(arguments, capability)[1], call, capability)


@pytest.mark.parametrize("seed", range(4))
def test_random_forests(executed, seed):
    shape = random_shape(Random(seed))
    small = TreeShape(shape.name, shape.parents[:14], tuple(1 + tokens % 23 for tokens in shape.tokens[:14]))
    options = {"split_tokens": (0, 16, 40)[seed % 3], "growth": (0, 5)[seed % 2]}
    call, arguments = problem(small, (8, 2), torch.bfloat16, head_dim=(64, 128)[seed % 2], **options)
    check_bytes(executed(arguments)[1], call, 90)


@pytest.mark.parametrize("capability", [86, 90])
def test_tall_tiles(executed, capability):
    call, arguments = problem(balanced((1, 70), (40, 1)), (32, 8), torch.bfloat16, head_dim=128)
    check_bytes(executed(arguments, capability)[1], call, capability)


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("rows", [1, 12, 70])
@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_no_bank_conflicts(executed, head_dim, rows, capability):
    """In the loop over keys: copies into shared memory and matrix loads out of it."""
    call, arguments = problem(balanced((1, rows), (90, 3)), (8, 2), torch.bfloat16, head_dim=head_dim)
    launch = executed(arguments, capability)[1]
    assert call.rows == rows
    assert launch.matrix_requests > 0
    assert launch.conflicts == 0


def test_the_same_plan_twice(executed):
    """Counters of parts are left as they were found: parts of the call before are not joined."""
    _, (q, k, v, plan) = problem(balanced((1, 9), (80, 3)), (8, 2), torch.bfloat16, split_tokens=16)
    assert len(plan.join_slots)
    for queries in (q, q.flip(0)):
        out = executed((queries, k, v, plan))[0]
        exact = tree_attention(queries.double(), k.double(), v.double(), plan, backend="reference")
        same = tree_attention(queries, k, v, plan, backend="reference")
        assert_matches_oracle(out, exact, same, "out")
