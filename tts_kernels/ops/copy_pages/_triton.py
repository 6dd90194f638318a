"""Pages as runs of raw words: one program moves a chunk of one page, keys and values, in one layer."""

from __future__ import annotations

from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

# Bytes that every page starts a multiple of -> the type of a word and the words of one vector load.
WORDS = {
    16: (torch.int64, 2),
    8: (torch.int64, 1),
    4: (torch.int32, 1),
    2: (torch.int16, 1),
    1: (torch.int8, 1),
}


@triton.jit
def _copy_pages_kernel(
    k_ptr, v_ptr, src_ptr, dst_ptr, num_pages, page_vectors, chunks, VECTOR: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    copy = tl.program_id(0) // chunks
    word = tl.program_id(0) % chunks * BLOCK + tl.arange(0, BLOCK)  # [BLOCK]
    first_page = tl.program_id(1).to(tl.int64) * num_pages
    page_words = page_vectors * VECTOR
    live = word < page_words
    src = (first_page + tl.load(src_ptr + copy)) * page_words + word
    dst = (first_page + tl.load(dst_ptr + copy)) * page_words + word
    k = tl.load(k_ptr + src, mask=live, other=0)
    v = tl.load(v_ptr + src, mask=live, other=0)
    tl.store(k_ptr + dst, k, mask=live)
    tl.store(v_ptr + dst, v, mask=live)


def copy_pages(k_pages: Tensor, v_pages: Tensor, src: Tensor, dst: Tensor) -> None:
    layers, pages = k_pages.shape[:2]
    page_bytes = k_pages[0, 0].nbytes if layers and pages else 0
    if not page_bytes or not len(src):
        return
    alignment = gcd(16, page_bytes, k_pages.data_ptr(), v_pages.data_ptr())
    dtype, vector = WORDS[alignment]
    words = page_bytes // dtype.itemsize
    block = min(1024, triton.next_power_of_2(words))
    chunks = triton.cdiv(words, block)
    _copy_pages_kernel[(len(src) * chunks, layers)](
        k_pages.view(-1).view(dtype), v_pages.view(-1).view(dtype), src.contiguous(), dst.contiguous(),
        pages, words // vector, chunks, VECTOR=vector, BLOCK=block,
    )  # fmt: skip
