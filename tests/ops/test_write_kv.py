import pytest
import torch

from tts_kernels.ops.write_kv import write_kv
from tts_kernels.testing import peaky

# Rows, KV heads, head_dim, page size, pages: one, odd, empty, and one past the 16 rows of a task.
SHAPES = [(1, 1, 1, 1, 1), (5, 2, 17, 16, 3), (0, 2, 8, 16, 2), (17, 3, 64, 4, 9), (33, 1, 129, 5, 7), (6, 0, 4, 2, 4)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make_case(shape, dtype, device, seed=0):
    """Rows with distinct random slots, and pages full of NaN: whatever is not written must stay NaN."""
    rows, heads, dim, page_size, pages = shape
    generator = torch.Generator().manual_seed(seed)
    k, v = (peaky(rows, heads, dim, generator=generator, dtype=dtype).to(device) for _ in range(2))
    slots = torch.randperm(pages * page_size, generator=generator)[:rows].to(device, torch.int32)
    k_pages, v_pages = (torch.full((pages, heads, page_size, dim), torch.nan, dtype=dtype, device=device) for _ in "kv")
    return k, v, k_pages, v_pages, slots


def expected(rows, pages, slots):
    """The slot as an index into [P * S], a view that shares nothing with the page arithmetic of the op."""
    flat = pages.clone().transpose(1, 2).flatten(0, 1)
    flat[slots.long()] = rows
    return flat.unflatten(0, (pages.shape[0], pages.shape[2])).transpose(1, 2)


def check(backend, k, v, k_pages, v_pages, slots):
    want_k, want_v = expected(k, k_pages, slots), expected(v, v_pages, slots)
    assert write_kv(k, v, k_pages, v_pages, slots, backend=backend) is None
    assert torch.equal(k_pages.nan_to_num(12345.0), want_k.nan_to_num(12345.0))
    assert torch.equal(v_pages.nan_to_num(12345.0), want_v.nan_to_num(12345.0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_writes_the_slots_and_nothing_else(backend, device, shape, dtype):
    check(backend, *make_case(shape, dtype, device))


def test_every_instruction_set(isa):
    check("native", *make_case((37, 3, 20, 4, 11), torch.bfloat16, "cpu"))


def test_strided_rows(backend, device):
    """k and v as views of a fused projection, of a transposed one, and with a last axis that is not contiguous."""
    *_, k_pages, v_pages, slots = make_case((19, 2, 8, 4, 6), torch.float32, device)
    fused = peaky(19, 6, 8, generator=torch.Generator().manual_seed(1)).to(device)
    turned = peaky(2, 19, 8, generator=torch.Generator().manual_seed(2)).to(device).transpose(0, 1)
    spread = peaky(19, 2, 16, generator=torch.Generator().manual_seed(3)).to(device)[..., ::2]
    broadcast = fused[:, 1:2].expand(19, 2, 8)
    for k, v in [(fused[:, 2:4], fused[:, 4:]), (turned, fused[:, :2]), (spread, turned), (broadcast, spread)]:
        check(backend, k, v, k_pages.clone(), v_pages.clone(), slots)
    check(backend, turned, turned, k_pages, v_pages, torch.stack([slots, slots], 1)[:, 0])


def test_last_slot_of_the_last_page(backend, device):
    k, v, k_pages, v_pages, _ = make_case((1, 2, 4, 16, 3), torch.float32, device)
    write_kv(k, v, k_pages, v_pages, torch.tensor([47], dtype=torch.int32, device=device), backend=backend)
    assert torch.equal(k_pages[2, :, 15], k[0])
    assert torch.equal(v_pages[2, :, 15], v[0])
    assert k_pages.isnan().sum() == k_pages.numel() - 8


@pytest.mark.parametrize("slot", [-1, 48, 2**31 - 1, -(2**31)])
def test_a_slot_outside_writes_nothing(slot):
    k, v, k_pages, v_pages, slots = make_case((3, 2, 4, 16, 3), torch.float32, "cpu")
    slots[1] = slot
    with pytest.raises(ValueError, match=rf"write_kv: slots must be in \[0, 48\), got {slot}$"):
        write_kv(k, v, k_pages, v_pages, slots)
    assert k_pages.isnan().all()
    assert v_pages.isnan().all()


def test_bad_input():
    k, v, k_pages, v_pages, slots = make_case((3, 2, 4, 16, 3), torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"write_kv: v must be \[N, Hkv, D\], got \[3, 2, 3\] .*D=4 from k"):
        write_kv(k, v[..., :3], k_pages, v_pages, slots)
    with pytest.raises(ValueError, match=r"write_kv: v_pages must be \[P, Hkv, S, D\], got \[2, 2, 16, 4\] .*P=3"):
        write_kv(k, v, k_pages, v_pages[:2], slots)
    with pytest.raises(ValueError, match=r"write_kv: slots must be \[N\], got \[2\]"):
        write_kv(k, v, k_pages, v_pages, slots[:2])
    with pytest.raises(TypeError, match="write_kv: slots must be int32, got int64"):
        write_kv(k, v, k_pages, v_pages, slots.long())
    with pytest.raises(TypeError, match="write_kv: v_pages must have the dtype of k"):
        write_kv(k, v, k_pages, v_pages.half(), slots)
    with pytest.raises(ValueError, match="write_kv: k_pages must be contiguous"):
        write_kv(k, v, k_pages.transpose(1, 2).contiguous().transpose(1, 2), v_pages, slots)
    with pytest.raises(RuntimeError, match="write_kv: backend 'triton' cannot run here"):
        write_kv(k, v, k_pages, v_pages, slots, backend="triton")
