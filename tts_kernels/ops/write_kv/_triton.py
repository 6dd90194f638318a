"""Keys and values in one launch. 8-bit pages have a program per page and head, which owns their scale."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# 1.5 * 2**23: adding it to a float32 below 2**22 in magnitude leaves no bit behind the point, rounded to even.
ROUNDER = tl.constexpr(12582912.0)


@triton.jit
def _write_kv_kernel(
    k_ptr, v_ptr, k_pages_ptr, v_pages_ptr, slots_ptr, num_rows,
    stride_kn, stride_kh, stride_kd, stride_vn, stride_vh, stride_vd,
    HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0).to(tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    BLOCK_D: tl.constexpr = triton.next_power_of_2(HEAD_DIM)
    dim = tl.arange(0, BLOCK_D).to(tl.int64)  # [BLOCK_D]
    live = row < num_rows
    here = live[:, None]
    if HEAD_DIM < BLOCK_D:
        here &= dim[None, :] < HEAD_DIM
    slot = tl.load(slots_ptr + row, mask=live, other=0)
    slab = (slot // PAGE_SIZE).to(tl.int64) * tl.num_programs(1) + head
    at = (slab * PAGE_SIZE + slot % PAGE_SIZE)[:, None] * HEAD_DIM + dim[None, :]  # [BLOCK_N, BLOCK_D]
    k_at = row[:, None] * stride_kn + head * stride_kh + dim[None, :] * stride_kd
    v_at = row[:, None] * stride_vn + head * stride_vh + dim[None, :] * stride_vd
    k = tl.load(k_ptr + k_at, mask=here, other=0.0)
    v = tl.load(v_ptr + v_at, mask=here, other=0.0)
    tl.store(k_pages_ptr + at, k, mask=here)
    tl.store(v_pages_ptr + at, v, mask=here)


@triton.jit
def _quantise(x, scale, LARGEST: tl.constexpr, dtype: tl.constexpr):
    """Nearest multiples of the scale, ties to even; a scale of 0 means that all of x is 0."""
    q = tl.div_rn(x, tl.where(scale == 0, 1.0, scale))
    q = tl.minimum(tl.maximum(q, -LARGEST), LARGEST)
    if dtype == tl.int8:
        q = (q + ROUNDER) - ROUNDER
    return q.to(dtype)


@triton.jit
def _write_page(x, offset, first, live, pages_ptr, scale_ptr, HEAD_DIM: tl.constexpr, LARGEST: tl.constexpr):
    """Write the rows x to offsets ``offset`` of the page of one head at ``pages_ptr``; older tokens are below first."""
    dtype: tl.constexpr = pages_ptr.dtype.element_ty
    BLOCK_S: tl.constexpr = x.shape[0]
    dim = tl.arange(0, x.shape[1])[None, :]
    old = tl.load(scale_ptr, mask=first > 0, other=0.0)
    largest = tl.max(tl.max(tl.abs(x), 1), 0)
    new = tl.maximum(old, tl.div_rn(largest, LARGEST))
    if (new > old) & (first > 0):
        place = tl.arange(0, BLOCK_S)[:, None]
        older_ptr = pages_ptr + place * HEAD_DIM + dim
        older = (place < first) & (dim < HEAD_DIM)
        tokens = tl.load(older_ptr, mask=older, other=0.0).to(tl.float32) * old  # [BLOCK_S, BLOCK_D]
        tl.store(older_ptr, _quantise(tokens, new, LARGEST, dtype), mask=older)
    at = pages_ptr + offset[:, None] * HEAD_DIM + dim
    tl.store(at, _quantise(x, new, LARGEST, dtype), mask=live[:, None] & (dim < HEAD_DIM))
    # All warps have read the old scale before one of them writes the new one.
    tl.debug_barrier()
    tl.store(scale_ptr, new)


@triton.jit
def _write_8_bit_kernel(
    k_ptr, v_ptr, k_pages_ptr, v_pages_ptr, slots_ptr, k_scales_ptr, v_scales_ptr, num_rows,
    stride_kn, stride_kh, stride_kd, stride_vn, stride_vh, stride_vd,
    HEAD_DIM: tl.constexpr, PAGE_SIZE: tl.constexpr, LARGEST: tl.constexpr,
):  # fmt: skip
    """A program per row and head; the first row of each page writes all rows of that page."""
    BLOCK_S: tl.constexpr = triton.next_power_of_2(PAGE_SIZE)
    BLOCK_D: tl.constexpr = triton.next_power_of_2(HEAD_DIM)
    leader = tl.program_id(0)
    head = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots_ptr + leader)
    before = tl.load(slots_ptr + leader - 1, mask=leader > 0, other=-PAGE_SIZE)
    page = slot // PAGE_SIZE
    if before // PAGE_SIZE != page:
        row = leader.to(tl.int64) + tl.arange(0, BLOCK_S)  # [BLOCK_S]
        slots = tl.load(slots_ptr + row, mask=row < num_rows, other=-PAGE_SIZE)
        live = (row < num_rows) & (slots // PAGE_SIZE == page)
        dim = tl.arange(0, BLOCK_D).to(tl.int64)  # [BLOCK_D]
        here = live[:, None] & (dim[None, :] < HEAD_DIM)
        slab = page.to(tl.int64) * tl.num_programs(1) + head
        begin = slab * PAGE_SIZE * HEAD_DIM
        first = slot % PAGE_SIZE
        offset = slots % PAGE_SIZE
        k_at = row[:, None] * stride_kn + head * stride_kh + dim[None, :] * stride_kd
        k = tl.load(k_ptr + k_at, mask=here, other=0.0).to(tl.float32)  # [BLOCK_S, BLOCK_D]
        _write_page(k, offset, first, live, k_pages_ptr + begin, k_scales_ptr + slab, HEAD_DIM, LARGEST)
        v_at = row[:, None] * stride_vn + head * stride_vh + dim[None, :] * stride_vd
        v = tl.load(v_ptr + v_at, mask=here, other=0.0).to(tl.float32)  # [BLOCK_S, BLOCK_D]
        _write_page(v, offset, first, live, v_pages_ptr + begin, v_scales_ptr + slab, HEAD_DIM, LARGEST)


def write_kv(
    k: Tensor,
    v: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    slots: Tensor,
    k_scales: Tensor | None,
    v_scales: Tensor | None,
) -> None:
    rows, heads, head_dim = k.shape
    if not k.numel():
        return
    tensors, strides = (k, v, k_pages, v_pages, slots.contiguous()), (*k.stride(), *v.stride())
    page_size, block_d = k_pages.shape[2], triton.next_power_of_2(head_dim)
    if k_scales is None:
        block_n = max(1, min(1024 // block_d, triton.next_power_of_2(rows)))
        _write_kv_kernel[(triton.cdiv(rows, block_n), heads)](
            *tensors, rows, *strides, HEAD_DIM=head_dim, PAGE_SIZE=page_size, BLOCK_N=block_n, num_warps=2
        )
        return
    fp8 = k_pages.dtype == torch.float8_e4m3fn
    if fp8 and k.is_cuda and torch.version.cuda and torch.cuda.get_device_capability(k.device) < (8, 9):
        raise TypeError("write_kv: float8_e4m3fn pages need a GPU of compute capability 8.9 or more")
    # Sixteen values of a page's tile per thread, as far as 16 warps go.
    warps = min(16, max(4, triton.next_power_of_2(page_size) * block_d // 512))
    _write_8_bit_kernel[(rows, heads)](
        *tensors, k_scales, v_scales, rows, *strides,
        HEAD_DIM=head_dim, PAGE_SIZE=page_size, LARGEST=448.0 if fp8 else 127.0, num_warps=warps,
    )  # fmt: skip
