"""The repaired interpreter computes what torch computes; the stock one does not."""

import pytest
import torch

from tts_kernels import _ext
from tts_kernels.testing import peaky

if not _ext.triton_interpreted():
    pytest.skip("needs the process with TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")

import triton
import triton.language as tl

NARROW = [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2]


@triton.jit
def _arithmetic_kernel(a_ptr, b_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    a = tl.load(a_ptr + at)
    b = tl.load(b_ptr + at)
    tl.store(out_ptr + at, a + b)
    tl.store(out_ptr + SIZE + at, a * b)
    tl.store(out_ptr + 2 * SIZE + at, -a)
    tl.store(out_ptr + 3 * SIZE + at, tl.maximum(a, b))
    tl.store(out_ptr + 4 * SIZE + at, tl.where(a > b, a, b))
    tl.store(out_ptr + 5 * SIZE + at, tl.abs(a))
    tl.store(out_ptr + 6 * SIZE + at, tl.clamp(a, b, b + 1))


@triton.jit
def _functions_kernel(a_ptr, out_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    a = tl.load(a_ptr + at)
    tl.store(out_ptr + at, tl.exp2(a))
    tl.store(out_ptr + SIZE + at, tl.rsqrt(a * a))
    tl.store(out_ptr + 2 * SIZE + at, tl.erf(a))
    tl.store(out_ptr + 3 * SIZE + at, tl.fma(a, a, -1.0))


@triton.jit
def _cast_kernel(src_ptr, dst_ptr, SIZE: tl.constexpr):
    at = tl.arange(0, SIZE)
    tl.store(dst_ptr + at, tl.load(src_ptr + at).to(dst_ptr.dtype.element_ty))


@triton.jit
def _dot_kernel(a_ptr, b_ptr, out_ptr, K: tl.constexpr, PRECISION: tl.constexpr):
    row = tl.arange(0, 16)[:, None]
    inner = tl.arange(0, K)
    a = tl.load(a_ptr + row * K + inner[None, :])
    b = tl.load(b_ptr + inner[:, None] * 16 + tl.arange(0, 16)[None, :])
    tl.store(out_ptr + row * 16 + tl.arange(0, 16)[None, :], tl.dot(a, b, input_precision=PRECISION))


@triton.jit
def _assert_kernel(x_ptr):
    tl.device_assert(tl.load(x_ptr) > 0, "x must be positive")


@triton.jit
def _overflow_kernel(x_ptr, out_ptr, FACTOR: tl.constexpr):
    tl.store(out_ptr, tl.load(x_ptr) * FACTOR)


@triton.jit
def _forgotten_other_kernel(x_ptr, out_ptr, n):
    at = tl.arange(0, 8)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < n))


@triton.jit
def _atomic_kernel(x_ptr, total_ptr):
    tl.atomic_add(total_ptr, tl.load(x_ptr + tl.program_id(0)))


def values(count, dtype=torch.float32, seed=0):
    return peaky(count, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def test_bfloat16_arithmetic_equals_torch():
    a, b = values(64, torch.bfloat16), values(64, torch.bfloat16, 1)
    out = torch.empty(7, 64, dtype=torch.bfloat16)
    _arithmetic_kernel[(1,)](a, b, out, SIZE=64)
    want = [a + b, a * b, -a, torch.maximum(a, b), torch.maximum(a, b), a.abs(), a.clamp(b, b + 1)]
    assert torch.equal(out, torch.stack(want))


def test_functions_of_float32():
    a, out = values(64), torch.empty(4, 64)
    _functions_kernel[(1,)](a, out, SIZE=64)
    want = torch.stack([a.exp2(), a.abs().reciprocal(), a.erf(), (a.double() * a.double() - 1).float()])
    assert torch.allclose(out, want, rtol=1e-6, atol=0)
    assert torch.equal(out[3], want[3])


@pytest.mark.parametrize("dtype", NARROW, ids=str)
def test_casts_round_to_nearest_even(dtype):
    src = values(1024) * 10.0 ** torch.arange(-4, 4).repeat(128)
    src[:3] = torch.tensor([torch.nan, torch.inf, 0.0])
    limit = torch.finfo(dtype).max
    want = (src if dtype == torch.bfloat16 else src.clamp(-limit, limit)).to(dtype)
    got = torch.empty(1024, dtype=dtype)
    _cast_kernel[(1,)](src, got, SIZE=1024)
    assert torch.equal(got.float().nan_to_num(7.0), want.float().nan_to_num(7.0))
    back = torch.empty(1024)
    _cast_kernel[(1,)](got, back, SIZE=1024)
    assert torch.equal(back.nan_to_num(7.0), want.float().nan_to_num(7.0))


def test_integers_to_bfloat16_and_back():
    src = torch.arange(-32, 32, dtype=torch.int32)
    half, back = torch.empty(64, dtype=torch.bfloat16), torch.empty(64, dtype=torch.int32)
    _cast_kernel[(1,)](src, half, SIZE=64)
    _cast_kernel[(1,)](half, back, SIZE=64)
    assert torch.equal(half, src.bfloat16())
    assert torch.equal(back, src)


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.bfloat16, "ieee"), (torch.float32, "ieee"), (torch.float32, "tf32")]
)
def test_products(dtype, precision):
    a, b = values(16 * 32, dtype).view(16, 32), values(32 * 16, dtype, 1).view(32, 16)
    out = torch.empty(16, 16)
    _dot_kernel[(1,)](a, b, out, K=32, PRECISION=precision)
    error = (out.double() - a.double() @ b.double()).abs().max()
    rounding = (a.abs().double() @ b.abs().double()).max()
    assert error < rounding * 2**-20 if precision == "ieee" else rounding * 2**-20 < error < rounding * 2**-10


def test_tf32_rounds_ties_away_from_zero():
    out = torch.empty(16, 16)
    _dot_kernel[(1,)](
        torch.full((16, 32), 1 + 2.0**-11), torch.eye(32)[:, :16].contiguous(), out, K=32, PRECISION="tf32"
    )
    assert (out == 1 + 2.0**-10).all()


def test_a_product_too_short_for_tensor_cores_is_refused():
    with pytest.raises(Exception, match="K >= 16"):
        _dot_kernel[(1,)](
            values(128, torch.float16), values(128, torch.float16), torch.empty(16, 16), K=8, PRECISION="ieee"
        )


def test_device_assert_raises():
    _assert_kernel[(1,)](torch.ones(1))
    with pytest.raises(AssertionError, match="x must be positive"):
        _assert_kernel[(1,)](torch.zeros(1))


def test_signed_overflow_raises_and_unsigned_wraps():
    out = torch.empty(1, dtype=torch.int64)
    with pytest.raises(OverflowError, match="int32 mul"):
        _overflow_kernel[(1,)](torch.tensor([2**30], dtype=torch.int32), out, FACTOR=4)
    _overflow_kernel[(1,)](torch.tensor([2**30 + 1], dtype=torch.int64).to(torch.uint32), out, FACTOR=4)
    assert out.item() == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.bfloat16], ids=str)
def test_lanes_without_other_are_poisoned(dtype):
    out = torch.zeros(8, dtype=dtype)
    _forgotten_other_kernel[(1,)](torch.ones(8, dtype=dtype), out, 5)
    assert (out[:5] == 1).all()
    assert out[5:].isnan().all() if dtype.is_floating_point else (out[5:] == torch.iinfo(dtype).max).all()


def test_bfloat16_atomics():
    x, total = torch.ones(9, dtype=torch.bfloat16), torch.full((1,), 0.5, dtype=torch.bfloat16)
    _atomic_kernel[(9,)](x, total)
    assert total.item() == 9.5
