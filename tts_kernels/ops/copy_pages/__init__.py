"""Copying whole pages of the KV pool, in all layers at once."""

from __future__ import annotations

import torch
from torch import Tensor

from tts_kernels._checks import REFERENCE_FLOATS, Dims, expect, expect_contiguous, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch


def copy_pages(k_pages: Tensor, v_pages: Tensor, src: Tensor, dst: Tensor, *, backend: Backend | None = None) -> None:
    """Copy page ``src[i]`` to page ``dst[i]`` in every layer, keys and values, in place.

    k_pages, v_pages: [L, P, Hkv, S, D] float32, bfloat16, float16, float8_e4m3fn or int8, contiguous; src, dst: [n]
    int32 in [0, P). The scales [L, P, Hkv] of 8-bit pages are copied by a call of their own, as [L, P, Hkv, 1, 1].
    A page may be copied to many, but a destination may neither occur twice nor be a source: copies run in any order.
    Raises ValueError or TypeError on wrong shapes, strides, dtypes or devices and, when src and dst are on the CPU,
    on a page out of range or a destination that clashes; nothing is written then.
    """
    dims = Dims("copy_pages")
    dims.shape(k_pages, "k_pages", "L P Hkv S D")
    dims.shape(v_pages, "v_pages", "L P Hkv S D")
    dims.shape(src, "src", "n")
    dims.shape(dst, "dst", "n")
    expect_dtype("copy_pages", *REFERENCE_FLOATS, torch.float8_e4m3fn, torch.int8, k_pages=k_pages)
    expect_dtype("copy_pages", torch.int32, src=src, dst=dst)
    expect_same("copy_pages", "dtype", k_pages=k_pages, v_pages=v_pages)
    expect_same("copy_pages", "device", k_pages=k_pages, v_pages=v_pages, src=src, dst=dst)
    expect_contiguous("copy_pages", k_pages=k_pages, v_pages=v_pages)
    if src.device.type == "cpu" and dims["n"]:
        _check_pages(src.tolist(), dst.tolist(), dims["P"])
    dispatch("copy_pages", backend, k_pages.device)(k_pages, v_pages, src, dst)


def _check_pages(src: list[int], dst: list[int], pages: int) -> None:
    for name, ids in (("src", src), ("dst", dst)):
        wrong = [page for page in ids if not 0 <= page < pages]
        expect("copy_pages", not wrong, name, f"in [0, {pages})", wrong[:1])
    sources = set(src)
    clash = [page for page in dst if page in sources]
    expect("copy_pages", not clash, "dst", "no page of src", clash[:1])
    twice = sorted(page for page in set(dst) if dst.count(page) > 1) if len(set(dst)) < len(dst) else []
    expect("copy_pages", not twice, "dst", "without repetition", twice[:1])
