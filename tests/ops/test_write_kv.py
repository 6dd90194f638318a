import pytest
import torch

from tts_kernels import _ext
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


def test_pages_behind_2_31_elements(backend, device):
    """A pool of which one token is ever touched."""
    pages = torch.empty(2**16, 16, 16, 129, dtype=torch.float16, device=device)
    k = peaky(1, 16, 129, generator=torch.Generator().manual_seed(0), dtype=torch.float16).to(device)
    slots = torch.tensor([2**20 - 1], dtype=torch.int32, device=device)
    write_kv(k, k, pages, pages, slots, backend=backend)
    assert torch.equal(pages[-1, :, -1], k[0])


@pytest.mark.parametrize("slot", [-1, 48, 2**31 - 1, -(2**31)])
def test_a_slot_outside_writes_nothing(slot):
    k, v, k_pages, v_pages, slots = make_case((3, 2, 4, 16, 3), torch.float32, "cpu")
    slots[1] = slot
    with pytest.raises(ValueError, match=rf"write_kv: slots must be in \[0, 48\), got {slot}$"):
        write_kv(k, v, k_pages, v_pages, slots)
    assert k_pages.isnan().all()
    assert v_pages.isnan().all()


# Rows, KV heads, head_dim, page size, pages.
SHAPES_8_BIT = [(1, 1, 1, 1, 1), (11, 2, 17, 16, 3), (0, 2, 8, 16, 2), (17, 3, 64, 4, 9), (35, 1, 129, 5, 7)]
DTYPES_8_BIT = [torch.int8, torch.float8_e4m3fn]


def pages_8_bit(shape, dtype, device):
    """Pages and scales full of poison: NaN, and for int8 the one value that is never written."""
    _, heads, dim, page_size, pages = shape
    filler = torch.nan if dtype.is_floating_point else -128
    values = [torch.full((pages, heads, page_size, dim), filler).to(dtype).to(device) for _ in "kv"]
    return *values, *(torch.full((pages, heads), torch.nan, device=device) for _ in "kv")


def calls_8_bit(shape, dtype, device, seed=0):
    """Every page is filled up to a random offset by a few calls, whose magnitudes grow, shrink or are 0."""
    rows, heads, dim, page_size, pages = shape
    generator = torch.Generator().manual_seed(seed)
    filled = [0] * pages
    for magnitude in (1.0, 5.0, 0.1, 300.0) if rows else (1.0,):
        slots = []
        for page in torch.randperm(pages, generator=generator).tolist():
            count = int(torch.randint(0, min(page_size, rows + 1), (), generator=generator)) if page_size > 1 else 1
            if filled[page] + count <= page_size:
                slots += range(page * page_size + filled[page], page * page_size + filled[page] + count)
                filled[page] += count
        k, v = (peaky(len(slots), heads, dim, generator=generator, scale=10.0) * magnitude for _ in "kv")
        v[:, :1] = 0
        yield k.to(device, dtype), v.to(device, dtype), torch.tensor(slots, dtype=torch.int32, device=device)


def same_bits(a, b):
    return torch.equal(a.view(torch.int8), b.view(torch.int8))


@pytest.mark.parametrize("shape", SHAPES_8_BIT, ids=str)
@pytest.mark.parametrize("stored", DTYPES_8_BIT, ids=str)
def test_8_bit_pages_equal_the_reference_bit_for_bit(backend, device, shape, stored):
    got, want = pages_8_bit(shape, stored, device), pages_8_bit(shape, stored, device)
    for dtype in DTYPES:
        for k, v, slots in calls_8_bit(shape, dtype, device):
            write_kv(k, v, *got[:2], slots, k_scales=got[2], v_scales=got[3], backend=backend)
            write_kv(k, v, *want[:2], slots, k_scales=want[2], v_scales=want[3], backend="reference")
            assert all(same_bits(a, b) for a, b in zip(got[:2], want[:2], strict=True))
            assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(got[2:], want[2:], strict=True))


@pytest.mark.parametrize("stored", DTYPES_8_BIT, ids=str)
def test_8_bit_pages_hold_what_was_written(device, stored):
    """The scale is the running maximum; a value is off by at most half a step for each time it was rounded."""
    shape = (13, 2, 17, 16, 3)
    k_pages, v_pages, k_scales, v_scales = pages_8_bit(shape, stored, device)
    exact = torch.full(k_pages.shape, torch.nan, device=device).transpose(1, 2).flatten(0, 1)
    for k, v, slots in calls_8_bit(shape, torch.float32, device):
        write_kv(k, v, k_pages, v_pages, slots, k_scales=k_scales, v_scales=v_scales, backend="reference")
        exact[slots.long()] = k
    exact = exact.unflatten(0, (3, 16)).transpose(1, 2)
    written = exact.isfinite()
    largest = 127.0 if stored == torch.int8 else 448.0
    peak = exact.nan_to_num(0.0).abs().amax((2, 3))
    assert torch.equal(k_scales, peak / largest)
    assert (v_scales[:, 0] == 0).all()
    error = (k_pages.float() * k_scales[..., None, None] - exact).abs()[written]
    step = k_scales[..., None, None].expand_as(exact)[written]
    if stored.is_floating_point:
        step = torch.maximum(exact[written].abs() * 2.0**-3, step * 2.0**-9)
    assert (error <= 4 * 0.51 * step).all()
    rest = k_pages.float()[~written]
    assert (rest == -128).all() if stored == torch.int8 else rest.isnan().all()


@pytest.mark.parametrize("stored", DTYPES_8_BIT, ids=str)
def test_offset_0_starts_an_8_bit_page_afresh(backend, device, stored):
    k_pages, v_pages, k_scales, v_scales = pages_8_bit((1, 1, 4, 2, 1), stored, device)
    for value in (100.0, 1.0):
        k = torch.full((1, 1, 4), value, device=device)
        slots = torch.zeros(1, dtype=torch.int32, device=device)
        write_kv(k, k, k_pages, v_pages, slots, k_scales=k_scales, v_scales=v_scales, backend=backend)
        assert torch.equal(k_scales, v_scales)
        assert (k_pages[0, 0, 0].float() * k_scales[0, 0] - value).abs().max() < 1e-6 * value


def test_strided_rows_of_8_bit_pages(backend, device):
    shape = (19, 2, 8, 4, 6)
    fused = peaky(19, 6, 8, generator=torch.Generator().manual_seed(1)).to(device)
    turned = peaky(2, 19, 8, generator=torch.Generator().manual_seed(2)).to(device).transpose(0, 1)
    slots = torch.arange(3, 22, dtype=torch.int32, device=device)
    got, want = pages_8_bit(shape, torch.int8, device), pages_8_bit(shape, torch.int8, device)
    for pages in (got, want):
        pages[2].fill_(0.01)
        pages[3].fill_(1.0)
    write_kv(fused[:, 2:4], turned, *got[:2], slots, k_scales=got[2], v_scales=got[3], backend=backend)
    contiguous = fused[:, 2:4].contiguous(), turned.contiguous()
    write_kv(*contiguous, *want[:2], slots, k_scales=want[2], v_scales=want[3], backend="reference")
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


def test_bad_8_bit_input():
    k, v, *_, slots = make_case((3, 2, 4, 16, 3), torch.float32, "cpu")
    k_pages, v_pages, k_scales, v_scales = pages_8_bit((3, 2, 4, 16, 3), torch.int8, "cpu")
    scales = {"k_scales": k_scales, "v_scales": v_scales}
    with pytest.raises(TypeError, match=r"write_kv: k_scales must be a tensor \[P, Hkv\], got NoneType"):
        write_kv(k, v, k_pages, v_pages, slots)
    with pytest.raises(ValueError, match=r"write_kv: v_scales must be \[P, Hkv\], got \[2, 2\] .*P=3 from k_pages"):
        write_kv(k, v, k_pages, v_pages, slots, k_scales=k_scales, v_scales=v_scales[:2])
    with pytest.raises(TypeError, match="write_kv: v_pages must have the dtype of k_pages"):
        write_kv(k, v, k_pages, v_pages.view(torch.float8_e4m3fn), slots, **scales)
    with pytest.raises(ValueError, match=r"write_kv: scales must be left out for torch\.float32 pages"):
        write_kv(k, v, k_pages.float(), v_pages.float(), slots, **scales)
    for wrong in ([0, 16, 1], [2, 1, 16], [3, 3, 16]):
        with pytest.raises(ValueError, match="write_kv: slots must be adjacent and ascending within an 8-bit page"):
            write_kv(k, v, k_pages, v_pages, torch.tensor(wrong, dtype=torch.int32), **scales)


@pytest.mark.parametrize("stored", DTYPES_8_BIT, ids=str)
def test_every_instruction_set_8_bit(isa, stored):
    test_8_bit_pages_equal_the_reference_bit_for_bit("native", "cpu", (35, 1, 129, 5, 7), stored)


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


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    k, v, k_pages, v_pages, slots = make_case((3, 2, 4, 16, 3), torch.float32, "cpu")
    monkeypatch.setattr(_ext, "why_not_triton", lambda device_type: "of the weather")
    with pytest.raises(RuntimeError, match="write_kv: backend 'triton' cannot run here: of the weather"):
        write_kv(k, v, k_pages, v_pages, slots, backend="triton")
