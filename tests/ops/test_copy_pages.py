import pytest
import torch

from tts_kernels import _ext
from tts_kernels.ops.copy_pages import copy_pages
from tts_kernels.testing import peaky

# Layers, pages, KV heads, page size, head_dim, copies.
SHAPES = [
    (1, 2, 1, 1, 1, 1),
    (3, 9, 2, 16, 17, 4),
    (2, 5, 2, 4, 8, 0),
    (5, 33, 1, 3, 7, 16),
    (0, 4, 2, 4, 8, 2),
    (2, 4, 0, 4, 8, 2),
]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make_case(shape, dtype, device, seed=0):
    """Distinct destinations; half of the copies share a source; every fifth value is NaN, which a copy must keep."""
    layers, pages, heads, page_size, dim, copies = shape
    generator = torch.Generator().manual_seed(seed)
    k_pages, v_pages = (peaky(layers, pages, heads, page_size, dim, generator=generator, dtype=dtype) for _ in "kv")
    k_pages.view(-1)[::5] = torch.nan
    order = torch.randperm(pages, generator=generator).to(torch.int32)
    src, dst = order[copies:][torch.arange(copies) // 2], order[:copies]
    return k_pages.to(device), v_pages.to(device), src.to(device), dst.to(device)


def check(backend, k_pages, v_pages, src, dst):
    want = [pages.clone() for pages in (k_pages, v_pages)]
    for pages in want:
        pages[:, dst.long()] = pages[:, src.long()]
    assert copy_pages(k_pages, v_pages, src, dst, backend=backend) is None
    for pages, wanted in zip((k_pages, v_pages), want, strict=True):
        assert torch.equal(pages.nan_to_num(12345.0), wanted.nan_to_num(12345.0))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_copies_the_pages_and_nothing_else(backend, device, shape, dtype):
    check(backend, *make_case(shape, dtype, device))


def test_every_instruction_set(isa):
    check("native", *make_case((3, 21, 2, 5, 9, 10), torch.bfloat16, "cpu"))


# Pages of 1280, 24, 4, 6 and 5 bytes, so that words of every size are copied; the first has a chunk of its own.
@pytest.mark.parametrize(
    "shape", [(2, 7, 2, 16, 40, 3), (2, 5, 2, 3, 4, 2), (1, 5, 1, 1, 4, 2), (1, 5, 1, 3, 2, 2)], ids=str
)
@pytest.mark.parametrize("dtype", [torch.int8, torch.float8_e4m3fn], ids=str)
def test_8_bit_pages(backend, device, shape, dtype):
    *_, src, dst = make_case(shape, torch.float32, device)
    bits = torch.randint(-128, 128, (2, *shape[:5]), generator=torch.Generator().manual_seed(1), dtype=torch.int8)
    k_bits, v_bits = bits.to(device)
    want = [pages.clone() for pages in (k_bits, v_bits)]
    for pages in want:
        pages[:, dst.long()] = pages[:, src.long()]
    copy_pages(k_bits.view(dtype), v_bits.view(dtype), src, dst, backend=backend)
    assert torch.equal(k_bits, want[0])
    assert torch.equal(v_bits, want[1])


def test_scales_of_pages(backend, device):
    *_, src, dst = make_case((2, 9, 3, 1, 1, 4), torch.float32, device)
    k_scales, v_scales = torch.rand(2, 2, 9, 3, generator=torch.Generator().manual_seed(1)).to(device)
    check(backend, k_scales[..., None, None], v_scales[..., None, None], src, dst)


def test_pages_behind_2_31_bytes(backend, device):
    """A pool of which three pages are ever touched. Their size is odd, so that a word is a byte."""
    pages = torch.empty(1, 2**20 + 3, 1, 1, 2049, dtype=torch.int8, device=device)
    pages[0, 1], pages[0, -1], pages[0, -2] = 1, 2, 3
    ids = torch.tensor([2**20 + 2, 1], dtype=torch.int32, device=device)
    copy_pages(pages, pages, ids[:1], ids[1:], backend=backend)
    assert (pages[0, 1] == 2).all()
    copy_pages(pages, pages, ids[1:], ids[:1] - 1, backend=backend)
    assert (pages[0, -2] == 2).all()


def test_pages_that_start_anywhere(backend, device):
    """Views into a larger buffer: the second is aligned to its element and no better."""
    k_pages, v_pages, src, dst = make_case((2, 9, 2, 4, 8, 4), torch.bfloat16, device)
    buffer = torch.zeros(v_pages.numel() + 1, dtype=torch.bfloat16, device=device)
    buffer[1:] = v_pages.flatten()
    check(backend, k_pages, buffer[1:].view(v_pages.shape), src, dst)


def test_strided_ids(backend, device):
    k_pages, v_pages, src, dst = make_case((2, 9, 2, 4, 8, 4), torch.float32, device)
    check(backend, k_pages, v_pages, torch.stack([src, dst], 1)[:, 0], torch.stack([src, dst], 1)[:, 1])


@pytest.mark.parametrize(
    ("src", "dst", "message"),
    [
        ([0, 9], [1, 2], r"src must be in \[0, 9\), got \[9\]"),
        ([0, -1], [1, 2], r"src must be in \[0, 9\), got \[-1\]"),
        ([0, 1], [2, 2**31 - 1], r"dst must be in \[0, 9\), got \[2147483647\]"),
        ([0, 1], [3, 3], r"dst must be without repetition, got \[3\]"),
        ([0, 1], [1, 2], r"dst must be no page of src, got \[1\]"),
        ([4], [4], r"dst must be no page of src, got \[4\]"),
    ],
)
def test_clashes_write_nothing(src, dst, message):
    k_pages, v_pages, *_ = make_case((2, 9, 2, 4, 8, 0), torch.float32, "cpu")
    before = k_pages.clone(), v_pages.clone()
    with pytest.raises(ValueError, match=f"copy_pages: {message}$"):
        copy_pages(k_pages, v_pages, torch.tensor(src, dtype=torch.int32), torch.tensor(dst, dtype=torch.int32))
    assert torch.equal(k_pages.nan_to_num(1.5), before[0].nan_to_num(1.5))
    assert torch.equal(v_pages, before[1])


def test_bad_input():
    k_pages, v_pages, src, dst = make_case((2, 9, 2, 4, 8, 3), torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"copy_pages: v_pages must be \[L, P, Hkv, S, D\], got .* \(L=2 from k_pages"):
        copy_pages(k_pages, v_pages[:1], src, dst)
    with pytest.raises(ValueError, match=r"copy_pages: dst must be \[n\], got \[2\] \(n=3 from src\)"):
        copy_pages(k_pages, v_pages, src, dst[:2])
    with pytest.raises(TypeError, match="copy_pages: src must be int32, got int64"):
        copy_pages(k_pages, v_pages, src.long(), dst)
    with pytest.raises(TypeError, match="copy_pages: v_pages must have the dtype of k_pages"):
        copy_pages(k_pages, v_pages.half(), src, dst)
    with pytest.raises(ValueError, match="copy_pages: v_pages must be contiguous"):
        copy_pages(k_pages, v_pages.transpose(0, 1).contiguous().transpose(0, 1), src, dst)


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    k_pages, v_pages, src, dst = make_case((2, 9, 2, 4, 8, 3), torch.float32, "cpu")
    monkeypatch.setattr(_ext, "why_not_triton", lambda device_type: "of the weather")
    with pytest.raises(RuntimeError, match="copy_pages: backend 'triton' cannot run here: of the weather"):
        copy_pages(k_pages, v_pages, src, dst, backend="triton")
