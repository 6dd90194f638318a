"""Storing new keys and values in the pages of the KV pool."""

from __future__ import annotations

import torch
from torch import Tensor

from tts_kernels._checks import FLOATS, REFERENCE_FLOATS, Dims, expect, expect_contiguous, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch

OP = "write_kv"
EIGHT_BITS = (torch.float8_e4m3fn, torch.int8)


def write_kv(
    k: Tensor,
    v: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    slots: Tensor,
    *,
    k_scales: Tensor | None = None,
    v_scales: Tensor | None = None,
    backend: Backend | None = None,
) -> None:
    """Write row n of ``k`` and ``v`` to page ``slots[n] // S``, offset ``slots[n] % S``, in place.

    k, v: [N, Hkv, D] float32, bfloat16 or float16, any strides; k_pages, v_pages: [P, Hkv, S, D], contiguous, same
    dtype; slots: [N] int32 in [0, P * S). When a slot occurs twice, which of its rows stays is undefined.

    Pages may also be float8_e4m3fn or int8. They hold multiples of k_scales and v_scales, [P, Hkv] float32, contiguous,
    required then and written too: the largest magnitude of the tokens in the page over 448 or 127. A call that raises
    a scale quantises the page's older tokens, those at offsets below the first that it writes, anew. A call that
    writes offset 0 starts the page afresh: its old scale is not read. Rows of one page must be adjacent and in
    ascending order of their offsets, as the tokens of one node are: one program writes them all. Values must be finite.

    Raises ValueError or TypeError on wrong shapes, strides, dtypes or devices and, when slots are on the CPU, on
    slots outside the pages or out of order for 8-bit pages; nothing is written then. Slots on other devices are not
    read before the launch.
    """
    dims = Dims(OP)
    dims.shape(k, "k", "N Hkv D")
    dims.shape(v, "v", "N Hkv D")
    dims.shape(k_pages, "k_pages", "P Hkv S D")
    dims.shape(v_pages, "v_pages", "P Hkv S D")
    dims.shape(slots, "slots", "N")
    expect_dtype(OP, torch.int32, slots=slots)
    expect_same(OP, "device", k=k, v=v, k_pages=k_pages, v_pages=v_pages, slots=slots)
    expect_contiguous(OP, k_pages=k_pages, v_pages=v_pages)
    quantised = k_pages.dtype in EIGHT_BITS
    (_check_8_bit if quantised else _check_plain)(dims, k, v, k_pages, v_pages, k_scales, v_scales)
    if slots.device.type == "cpu" and dims["N"]:
        _check_slots(slots, dims["P"], dims["S"], quantised)
    dispatch(OP, backend, k.device)(k, v, k_pages, v_pages, slots, k_scales, v_scales)


def _check_plain(dims: Dims, k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, *scales: Tensor | None) -> None:
    expect_dtype(OP, *REFERENCE_FLOATS, k=k)
    expect_same(OP, "dtype", k=k, v=v, k_pages=k_pages, v_pages=v_pages)
    expect(OP, all(x is None for x in scales), "scales", f"left out for {k_pages.dtype} pages", "some")


def _check_8_bit(
    dims: Dims,
    k: Tensor,
    v: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    k_scales: Tensor | None,
    v_scales: Tensor | None,
) -> None:
    expect_dtype(OP, *FLOATS, k=k)
    expect_same(OP, "dtype", k=k, v=v)
    expect_same(OP, "dtype", k_pages=k_pages, v_pages=v_pages)
    for name, scales in (("k_scales", k_scales), ("v_scales", v_scales)):
        dims.shape(scales, name, "P Hkv")  # type: ignore[arg-type]
    assert k_scales is not None and v_scales is not None
    expect_dtype(OP, torch.float32, k_scales=k_scales, v_scales=v_scales)
    expect_same(OP, "device", k_pages=k_pages, k_scales=k_scales, v_scales=v_scales)
    expect_contiguous(OP, k_scales=k_scales, v_scales=v_scales)


def _check_slots(slots: Tensor, pages: int, page_size: int, quantised: bool) -> None:
    low, high = (int(x) for x in slots.aminmax())
    capacity = pages * page_size
    expect(OP, low >= 0 and high < capacity, "slots", f"in [0, {capacity})", low if low < 0 else high)
    if quantised:
        page = slots // page_size
        adjacent = page[1:] == page[:-1]
        runs = 1 + int((~adjacent).sum())
        ordered = runs == len(page.unique()) and bool((slots.diff()[adjacent] > 0).all())
        expect(OP, ordered, "slots", "adjacent and ascending within an 8-bit page", slots.tolist()[:16])
