import pytest
import torch

from tts_kernels.backends import why_not
from tts_kernels.ops.linear import _native, linear
from tts_kernels.testing import assert_matches_oracle, peaky

# Rows, width, depth: one, odd, empty, and around every block of rows, of weights and of the depth.
SHAPES = [(1, 1, 32), (3, 17, 64), (0, 5, 32), (16, 64, 256), (17, 65, 288), (33, 130, 96), (70, 79, 544), (4, 0, 32)]


def within(values, filler):
    """The same values as a contiguous part of a buffer that is poisoned before and behind them."""
    buffer = torch.full((values.numel() + 128,), filler, dtype=values.dtype)
    part = buffer[64 : 64 + values.numel()].view(values.shape)
    part.copy_(values)
    return part


def check(backend, shape, dtype, bias=True, strided=False):
    rows, width, depth = shape
    generator = torch.Generator().manual_seed(rows + width)
    x = peaky(rows, 2 * depth if strided else depth, generator=generator, dtype=dtype)
    x = x[:, ::2] if strided else within(x, torch.nan)
    weight = within(peaky(width, depth, generator=generator, dtype=dtype), torch.nan)
    add = within(peaky(width, generator=generator, dtype=dtype), torch.nan) if bias else None
    out = linear(x, weight, add, backend=backend)
    assert out.dtype == dtype
    assert out.shape == (rows, width)
    oracle = linear(x.double(), weight.double(), None if add is None else add.double(), backend="reference")
    assert_matches_oracle(out, oracle, linear(x, weight, add, backend="reference"), "out")


def skip_without(dtype, depth):
    reason = why_not("linear", "native", "cpu") or _native.why_not(dtype, depth)
    if reason is not None:
        pytest.skip(reason)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_matches_oracle(backend, shape, dtype):
    if backend == "native":
        skip_without(dtype, shape[2])
    check(backend, shape, dtype)
    check(backend, shape, dtype, bias=False, strided=True)


@pytest.mark.parametrize("depth", [1, 15, 100, 257])
def test_any_depth_in_float32(isa, depth):
    check("native", (5, 40, depth), torch.float32)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_every_instruction_set(isa, dtype):
    skip_without(dtype, 320)
    for rows in (1, 16, 31, 33, 97):
        check("native", (rows, 150, 320), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_threads_and_other_rows_do_not_show(isa, dtype):
    skip_without(dtype, 96)
    generator = torch.Generator().manual_seed(0)
    x, weight = (peaky(n, 96, generator=generator, dtype=dtype) for n in (50, 700))
    whole = linear(x, weight, backend="native")
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    assert torch.equal(linear(x, weight, backend="native"), whole)
    torch.set_num_threads(before)
    for rows in (1, 17, 40):
        assert torch.equal(linear(x[:rows], weight, backend="native"), whole[:rows])


def test_bad_input():
    x, weight = torch.zeros(2, 8), torch.zeros(3, 8)
    with pytest.raises(ValueError, match=r"linear: weight must be \[M, K\], got \[8, 3\] .*K=8 from x"):
        linear(x, weight.T)
    with pytest.raises(TypeError, match="linear: weight must have the dtype of x"):
        linear(x, weight.bfloat16())
    with pytest.raises(ValueError, match=r"linear: bias must be \[M\], got \[8\]"):
        linear(x, weight, x[0])
    with pytest.raises(ValueError, match="linear: weight must be contiguous"):
        linear(x, torch.zeros(8, 3).T)


def test_native_says_what_it_does_not_take():
    if why_not("linear", "native", "cpu") is not None:
        pytest.skip("native kernels are not built")
    with pytest.raises(ValueError, match=r"linear: weight must be .*\(the kernel has no float16\)"):
        linear(torch.zeros(2, 8).half(), torch.zeros(3, 8).half(), backend="native")
    assert why_not("linear", "native", "cuda") is not None
