"""The meter against counts worked out by hand, planted out-of-bounds accesses and planted races."""

import pytest
import torch

from tts_kernels import _ext

if not _ext.triton_interpreted():
    pytest.skip("needs the process with TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")

import triton
import triton.language as tl

from tts_kernels.testing.meter import Dram, Meter, OutOfBounds, Traffic


@triton.jit
def _strided_kernel(x_ptr, out_ptr, n, STEP: tl.constexpr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    live = at < n
    tl.store(out_ptr + at, tl.load(x_ptr + at * STEP, mask=live, other=0.0), mask=live)


@triton.jit
def _sweep_kernel(x_ptr, out_ptr, TILES: tl.constexpr, SIZE: tl.constexpr):
    total = tl.zeros([SIZE], tl.float32)
    for tile in range(TILES):
        total += tl.load(x_ptr + tile * SIZE + tl.arange(0, SIZE))
    tl.store(out_ptr + tl.program_id(0) * SIZE + tl.arange(0, SIZE), total)


@triton.jit
def _shifted_kernel(out_ptr, SHIFT: tl.constexpr, SIZE: tl.constexpr):
    tl.store(out_ptr + tl.program_id(0) * SHIFT + tl.arange(0, SIZE), 1.0)


@triton.jit
def _increment_kernel(total_ptr, ATOMIC: tl.constexpr):
    if ATOMIC:
        tl.atomic_add(total_ptr, 1.0)
    else:
        tl.store(total_ptr, tl.load(total_ptr) + 1.0)


@triton.jit
def _last_joins_kernel(
    part_ptr,
    count_ptr,
    out_ptr,
    PROGRAMS: tl.constexpr,
    SIZE: tl.constexpr,
    BARRIER: tl.constexpr,
    LATE: tl.constexpr,
    SEM: tl.constexpr,
):
    """The last program to add to the counter sums what all have stored before; LATE stores too late."""
    at = tl.arange(0, SIZE)
    me = tl.program_id(0)
    if not LATE:
        tl.store(part_ptr + me * SIZE + at, 1.0)
    if BARRIER:
        tl.debug_barrier()
    arrived = tl.atomic_add(count_ptr, 1, sem=SEM)
    if LATE:
        tl.store(part_ptr + me * SIZE + at, 1.0)
    if arrived == PROGRAMS - 1:
        total = tl.zeros([SIZE], tl.float32)
        for program in range(PROGRAMS):
            total += tl.load(part_ptr + program * SIZE + at)
        tl.store(out_ptr + at, total)
        tl.store(count_ptr, 0)


@triton.jit
def _halving_kernel(out_ptr, SIZE: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, SIZE) // 2, 1.0)


@triton.jit
def _listener_kernel(x_ptr, count_ptr, out_ptr, ASK: tl.constexpr):
    """Program 0 publishes x, program 1 hears of it, program 2 reads x, and asks before or not."""
    me = tl.program_id(0)
    if me == 0:
        tl.store(x_ptr, 1.0)
    tl.debug_barrier()
    if (me < 2) | ASK:
        tl.atomic_add(count_ptr, 1)
    if me == 2:
        tl.store(out_ptr, tl.load(x_ptr))


def aligned(count):
    """float32 [count] that starts a cache line."""
    whole = torch.zeros(count + 32)
    begin = -whole.data_ptr() // 4 % 32
    return whole[begin : begin + count]


@pytest.mark.parametrize(
    ("step", "n", "requested", "sectors"),
    [(1, 64, 256, 256), (2, 64, 256, 512), (8, 64, 256, 2048), (1, 50, 200, 224), (0, 64, 256, 32)],
)
def test_bytes_and_sectors(step, n, requested, sectors):
    with Meter() as meter:
        _strided_kernel[(1,)](aligned(1024), aligned(64), n, STEP=step, SIZE=64)
    assert meter.traffic("x_ptr", "load") == Traffic(requested, sectors, sectors, sectors)
    assert meter.traffic("out_ptr", "store").requested == n * 4
    assert meter.traffic("out_ptr", "load") == Traffic()
    assert not meter.races


def test_a_misaligned_tile_takes_a_sector_more():
    with Meter() as meter:
        _strided_kernel[(1,)](aligned(1024)[1:], aligned(64), 64, STEP=1, SIZE=64)
    assert meter.traffic("x_ptr").tile == 256 + 32


def test_programs_launches_and_l2():
    """Four programs sweep the same 4 KiB: an L2 that holds them reads them once, one that does not, every time."""
    x, out = aligned(1024), aligned(512)
    with Meter() as meter:
        _sweep_kernel[(4,)](x, out, TILES=8, SIZE=128)
    assert meter.traffic("x_ptr") == Traffic(4 * 4096, 4 * 4096, 4 * 4096, 4096)
    (launch,) = meter.launches
    assert launch.table().keys() == {("x_ptr", "load"), ("out_ptr", "store")}
    assert launch.through_l2(8192, wave=1) == Dram(4096, 2048)
    assert launch.through_l2(2048, wave=1) == Dram(4 * 4096, 2048)
    assert launch.through_l2(2048, wave=2) == Dram(2 * 4096, 2048)
    assert launch.through_l2(2048, wave=4) == Dram(4096, 2048)
    with Meter() as meter:
        _sweep_kernel[(4,)](x, out, TILES=8, SIZE=128)
        _shifted_kernel[(2,)](out, SHIFT=8, SIZE=8)
    assert meter.traffic().requested == 4 * 4096 + 2048 + 64
    assert meter.traffic(kernel="_shifted_kernel").requested == 64


@pytest.mark.parametrize(("sizes", "tensor"), [((60, 64), "x_ptr"), ((64, 60), "out_ptr")])
def test_out_of_bounds(sizes, tensor):
    """The neighbour in memory belongs to the other argument: that does not make the access right."""
    whole = aligned(124)
    x, out = whole[: sizes[0]], whole[sizes[0] :]
    if tensor == "out_ptr":
        x, out = whole[60:], whole[:60]
    kind = "load" if tensor == "x_ptr" else "store"
    message = (
        rf"_strided_kernel, program \(0, 0, 0\), test_meter.py:\d+: {kind} out of bounds: 4 lanes, .* \+240 of {tensor}"
    )
    with pytest.raises(OutOfBounds, match=message), Meter():
        _strided_kernel[(1,)](x, out, 64, STEP=1, SIZE=64)
    with Meter():
        _strided_kernel[(1,)](x, out, 60, STEP=1, SIZE=64)


def test_before_the_first_element():
    with pytest.raises(OutOfBounds, match=r"-4 of x_ptr"), Meter():
        _strided_kernel[(1,)](aligned(64)[1:], aligned(64), 2, STEP=-1, SIZE=2)


def test_stores_that_overlap():
    with Meter() as meter:
        _shifted_kernel[(3,)](aligned(64), SHIFT=15, SIZE=16)
    (race,) = meter.races
    assert (race.tensor, race.what, race.first, race.second, race.elements) == ("out_ptr", "store after store", 0, 1, 1)
    with Meter() as meter:
        _shifted_kernel[(3,)](aligned(64), SHIFT=16, SIZE=16)
    assert not meter.races


def test_views_of_one_storage_overlap():
    whole = aligned(128)
    with Meter() as meter:
        _sweep_kernel[(2,)](whole[:64], whole[32:], TILES=2, SIZE=32)
    assert {race.what for race in meter.races} == {"load after store"}


def test_plain_increments_race_and_atomics_do_not():
    with Meter() as meter:
        _increment_kernel[(3,)](aligned(1), ATOMIC=False)
    assert {race.what for race in meter.races} == {"load after store", "store after load", "store after store"}
    with Meter() as meter:
        _increment_kernel[(3,)](aligned(1), ATOMIC=True)
    assert not meter.races
    assert meter.traffic(kind="atomic").requested == 12


@pytest.mark.parametrize(
    ("barrier", "late", "sem", "races"),
    [
        (True, False, "acq_rel", set()),
        (False, False, "acq_rel", {"load after store"}),
        (True, True, "acq_rel", {"load after store"}),
        (True, False, "relaxed", {"load after store", "store after atomic"}),
        (True, False, "acquire", {"load after store", "store after atomic"}),
        (True, False, "release", {"load after store", "store after atomic"}),
    ],
    ids=["right", "without barrier", "stored too late", "relaxed", "acquire only", "release only"],
)
def test_the_last_program_joins(barrier, late, sem, races):
    part, count, out = aligned(64), torch.zeros(1, dtype=torch.int32), aligned(16)
    with Meter() as meter:
        _last_joins_kernel[(4,)](part, count, out, PROGRAMS=4, SIZE=16, BARRIER=barrier, LATE=late, SEM=sem)
    assert (out == 4).all()
    assert {race.what for race in meter.races} == races


@pytest.mark.parametrize("ask", [True, False])
def test_what_one_program_hears_another_has_not_heard(ask):
    with Meter() as meter:
        _listener_kernel[(3,)](aligned(1), torch.zeros(1, dtype=torch.int32), aligned(1), ASK=ask)
    assert [race.what for race in meter.races] == ([] if ask else ["load after store"])


def test_two_lanes_of_one_store():
    with Meter() as meter:
        _halving_kernel[(1,)](aligned(16), SIZE=32)
    assert [(race.what, race.elements) for race in meter.races] == [("two lanes of one store", 16)]
