"""Storing new keys and values in the pages of the KV pool."""

from __future__ import annotations

import torch
from torch import Tensor

from tts_kernels._checks import REFERENCE_FLOATS, Dims, expect, expect_contiguous, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch


def write_kv(
    k: Tensor, v: Tensor, k_pages: Tensor, v_pages: Tensor, slots: Tensor, *, backend: Backend | None = None
) -> None:
    """Write row n of ``k`` and ``v`` to page ``slots[n] // S``, offset ``slots[n] % S``, in place.

    k, v: [N, Hkv, D] float32, bfloat16 or float16, any strides; k_pages, v_pages: [P, Hkv, S, D], contiguous, same
    dtype; slots: [N] int32 in [0, P * S). When a slot occurs twice, which of its rows stays is undefined.
    Raises ValueError or TypeError on wrong shapes, strides, dtypes or devices and, when slots are on the CPU, on a
    slot outside the pages; nothing is written then. Slots on other devices are not read before the launch.
    """
    dims = Dims("write_kv")
    dims.shape(k, "k", "N Hkv D")
    dims.shape(v, "v", "N Hkv D")
    dims.shape(k_pages, "k_pages", "P Hkv S D")
    dims.shape(v_pages, "v_pages", "P Hkv S D")
    dims.shape(slots, "slots", "N")
    expect_dtype("write_kv", *REFERENCE_FLOATS, k=k)
    expect_dtype("write_kv", torch.int32, slots=slots)
    expect_same("write_kv", "dtype", k=k, v=v, k_pages=k_pages, v_pages=v_pages)
    expect_same("write_kv", "device", k=k, v=v, k_pages=k_pages, v_pages=v_pages, slots=slots)
    expect_contiguous("write_kv", k_pages=k_pages, v_pages=v_pages)
    if slots.device.type == "cpu" and dims["N"]:
        capacity = dims["P"] * dims["S"]
        low, high = (int(x) for x in slots.aminmax())
        expect("write_kv", low >= 0 and high < capacity, "slots", f"in [0, {capacity})", low if low < 0 else high)
    dispatch("write_kv", backend, k.device)(k, v, k_pages, v_pages, slots)
