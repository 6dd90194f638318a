"""Every byte that the small kernels move is one that the op must move, and no two programs meet."""

import pytest
import torch

from tts_kernels import _ext
from tts_kernels.ops.copy_pages import copy_pages
from tts_kernels.ops.merge_states import merge_states
from tts_kernels.ops.write_kv import write_kv
from tts_kernels.testing import peaky

if not _ext.triton_interpreted():
    pytest.skip("needs the process with TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")

from tts_kernels.testing.meter import Meter


def make(*shape, dtype=torch.bfloat16):
    return peaky(*shape, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("dim", [64, 33])
def test_copy_pages(dim):
    k_pages, v_pages = make(2, 3, 9, 2, 16, dim)
    src, dst = torch.tensor([3, 3, 5], dtype=torch.int32), torch.tensor([0, 8, 1], dtype=torch.int32)
    with Meter() as meter:
        copy_pages(k_pages, v_pages, src, dst, backend="triton")
    assert not meter.races
    assert len(meter.launches) == 1
    moved = k_pages[:, dst.long()].nbytes
    for tensor in ("k_ptr", "v_ptr"):
        assert meter.traffic(tensor, "load").requested == meter.traffic(tensor, "store").requested == moved
        if dim == 64:
            assert meter.traffic(tensor, "load").cold == moved * 2 // 3


@pytest.mark.parametrize("dim", [64, 33])
def test_merge_states(dim):
    outs, lses = make(5, 13, 4, dim), make(5, 13, 4, dtype=torch.float32)
    lses[2, 3:7] = -torch.inf
    outs[2, 3:7] = torch.nan
    with Meter() as meter:
        merge_states(outs, lses, backend="triton")
    assert not meter.races
    assert meter.traffic("outs_ptr").requested == outs.nbytes - outs[2, 3:7].nbytes
    assert meter.traffic("lses_ptr").requested == 2 * lses.nbytes
    assert meter.traffic("out_ptr", "store").requested == outs[0].nbytes
    assert meter.traffic("lse_ptr", "store").requested == lses[0].nbytes


def test_write_kv():
    k, v = make(19, 6, 33).split(3, dim=1)
    k_pages, v_pages = torch.zeros(2, 8, 3, 4, 33, dtype=torch.bfloat16)
    slots = torch.randperm(32, generator=torch.Generator().manual_seed(0))[:19].to(torch.int32)
    with Meter() as meter:
        write_kv(k, v, k_pages, v_pages, slots, backend="triton")
    assert not meter.races
    assert len(meter.launches) == 1
    for rows, pages in (("k_ptr", "k_pages_ptr"), ("v_ptr", "v_pages_ptr")):
        assert meter.traffic(rows, "load").requested == meter.traffic(pages, "store").requested == 19 * 3 * 33 * 2
        assert meter.traffic(pages, "load").requested == 0


@pytest.mark.parametrize(("factor", "rewritten"), [(0.5, 0), (100.0, 5)])
def test_write_kv_of_8_bit_pages(factor, rewritten):
    """Older tokens move only where a scale grows: five of page 0."""
    k_pages, v_pages = torch.zeros(2, 3, 2, 8, 33, dtype=torch.int8)
    scales = {"k_scales": torch.zeros(3, 2), "v_scales": torch.zeros(3, 2)}
    k, v = torch.ones(2, 5, 2, 33)
    write_kv(k, v, k_pages, v_pages, torch.arange(5, dtype=torch.int32), **scales, backend="triton")
    k, v = torch.full((2, 12, 2, 33), factor)
    slots = torch.tensor([*range(16, 21), 5, 6, *range(8, 13)], dtype=torch.int32)
    with Meter() as meter:
        write_kv(k, v, k_pages, v_pages, slots, **scales, backend="triton")
    assert not meter.races
    token = 2 * 33
    for pages, scale in (("k_pages_ptr", "k_scales_ptr"), ("v_pages_ptr", "v_scales_ptr")):
        assert meter.traffic(pages, "load").requested == rewritten * token
        assert meter.traffic(pages, "store").requested == (12 + rewritten) * token
        assert meter.traffic(scale, "load").requested == 2 * 4
        assert meter.traffic(scale, "store").requested == 3 * 2 * 4
