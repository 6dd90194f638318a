"""What the compiler makes of toy kernels, right ones and ones with a planted loss."""

import pytest
import torch

from tts_kernels import _ext

if _ext.triton_interpreted():
    pytest.skip("needs the process without TRITON_INTERPRET", allow_module_level=True)

pytest.importorskip("triton")

import triton
import triton.language as tl

from tts_kernels.testing.compile import compile_only

TARGETS = [80, 90, 100, 120, "gfx942"]


@triton.jit
def _copy_rows_kernel(src_ptr, dst_ptr, stride, SIZE: tl.constexpr):
    row = tl.program_id(0) * stride
    tl.store(dst_ptr + row + tl.arange(0, SIZE), tl.load(src_ptr + row + tl.arange(0, SIZE)))


@triton.jit
def _product_kernel(a_ptr, b_ptr, out_ptr, n, SIZE: tl.constexpr):
    row, column = tl.arange(0, SIZE)[:, None], tl.arange(0, SIZE)[None, :]
    total = tl.zeros([SIZE, SIZE], tl.float32)
    for step in range(n):
        a = tl.load(a_ptr + step * SIZE * SIZE + row * SIZE + column)
        b = tl.load(b_ptr + step * SIZE * SIZE + row * SIZE + column)
        total += tl.dot(a, b)
    tl.store(out_ptr + row * SIZE + column, total)


def copy_rows(stride, **options):
    src, dst = (torch.zeros(4 * stride, dtype=torch.bfloat16) for _ in "sd")
    _copy_rows_kernel[(4,)](src, dst, stride, SIZE=2048, **options)


def product(size, **options):
    a, b = (torch.zeros(4, size, size, dtype=torch.float16) for _ in "ab")
    _product_kernel[lambda meta: (1,)](a, b, torch.zeros(size, size), 4, SIZE=size, **options)


@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_lost_divisibility_is_seen(target):
    with compile_only(target) as kernels:
        copy_rows(2048, num_warps=4)
        copy_rows(2047, num_warps=4)
    good, bad = kernels
    assert good.kernel == bad.kernel == "_copy_rows_kernel"
    assert (good.num_warps, good.constants) == (4, {"SIZE": 2048})
    assert good.wide_loads == good.wide_stores > 0
    assert bad.wide_loads == bad.wide_stores == 0
    assert good.spills == good.spill_bytes == good.tensor_core == 0
    assert 0 < good.registers < 64


@pytest.mark.parametrize("target", [80, 90, 100, "gfx942"], ids=str)
def test_tensor_cores_and_copies_are_counted(target):
    with compile_only(target) as kernels:
        product(64, num_warps=4, num_stages=3)
    (kernel,) = kernels
    assert kernel.tensor_core > 0
    assert kernel.wide_loads > 0
    assert kernel.shared > 0
    if target != "gfx942":
        assert kernel.async_copies > 0
    assert "tt.dot" in kernel.ttir
    assert "ttg." in kernel.ttgir


def test_a_spill_is_seen():
    with compile_only(80) as kernels:
        product(128, num_warps=4)
        product(128, num_warps=4, maxnreg=64)
    fits, spills = kernels
    assert fits.spills == fits.spill_bytes == 0
    assert spills.registers <= 64
    assert spills.spills > 0
    assert spills.spill_bytes > 0


def test_nothing_is_launched_and_the_driver_is_given_back():
    before = triton.runtime.driver._active
    with compile_only(90):
        copy_rows(2048)
    assert triton.runtime.driver._active is before
