"""copy_pages against torch's index_select and index_copy_: pytest benchmarks/bench_copy_pages.py."""

from __future__ import annotations

import pytest
import torch
from op_rows import Case

from tts_kernels.ops.copy_pages import copy_pages
from tts_kernels.testing import peaky

LAYERS, KV_HEADS, PAGE_SIZE, HEAD_DIM = 30, 3, 16, 64


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16), ids=str)
@pytest.mark.parametrize(("sources", "copies"), ((1, 8), (1, 31), (16, 48), (64, 192)))
def test_copy_pages(measure, sources, copies, dtype):
    """The fork of so many nodes: each one's partial page, in all layers, for every child but the last."""
    generator = torch.Generator().manual_seed(0)
    pages = sources + copies
    order = torch.randperm(pages, generator=generator, dtype=torch.int32)
    src, dst = order[:sources].repeat(copies // sources), order[sources:]
    shape = (LAYERS, pages, KV_HEADS, PAGE_SIZE, HEAD_DIM)
    k_pages, v_pages = (peaky(*shape, generator=generator, dtype=dtype) for _ in "kv")
    from_pages, to_pages = src.long(), dst.long()

    def native() -> None:
        copy_pages(k_pages, v_pages, src, dst, backend="native")

    def reference() -> None:
        copy_pages(k_pages, v_pages, src, dst, backend="reference")

    def index_copy() -> None:
        for each in (k_pages, v_pages):
            each.index_copy_(1, to_pages, each.index_select(1, from_pages))

    native()
    assert torch.equal(k_pages[:, to_pages], k_pages[:, from_pages])
    assert torch.equal(v_pages[:, to_pages], v_pages[:, from_pages])
    page_bytes = 2 * LAYERS * KV_HEADS * PAGE_SIZE * HEAD_DIM * dtype.itemsize
    words = f"{copies} copies of {sources} pages, {LAYERS} layers of {KV_HEADS} heads of {HEAD_DIM}"
    case = Case("copy_pages", words, dtype, nbytes=float((sources + copies) * page_bytes))
    measure(case, {"native": native, "reference": reference, "index_select, index_copy_": index_copy})
