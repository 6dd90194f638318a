"""write_kv against torch's index_put: pytest benchmarks/bench_write_kv.py."""

from __future__ import annotations

import pytest
import torch
from op_rows import Case

from tts_kernels.ops.write_kv import write_kv
from tts_kernels.testing import peaky

PAGE_SIZE, KV_HEADS, HEAD_DIM = 16, 3, 64
DTYPES = (torch.float32, torch.bfloat16, torch.int8)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", (32, 512, 4096))
def test_write_kv(measure, rows, dtype):
    """A token for each of the rows, on a page of its own, or a prompt of so many tokens."""
    decoding, narrow = rows <= 512, dtype == torch.int8
    generator = torch.Generator().manual_seed(0)
    count = rows if decoding else rows // PAGE_SIZE
    order = torch.randperm(count, generator=generator)
    slots = order * PAGE_SIZE + 5 if decoding else (order[:, None] * PAGE_SIZE + torch.arange(PAGE_SIZE)).flatten()
    fused = peaky(rows, 2 * KV_HEADS, HEAD_DIM, generator=generator, dtype=torch.bfloat16 if narrow else dtype)
    k, v = fused.split(KV_HEADS, dim=1)
    k_pages, v_pages = (torch.zeros(count, KV_HEADS, PAGE_SIZE, HEAD_DIM, dtype=dtype) for _ in "kv")
    scales = dict.fromkeys(("k_scales", "v_scales"))
    if narrow:
        scales = {name: torch.zeros(count, KV_HEADS) for name in scales}
    page, offset, places = slots // PAGE_SIZE, slots % PAGE_SIZE, slots.int()

    def native() -> None:
        write_kv(k, v, k_pages, v_pages, places, **scales, backend="native")

    def reference() -> None:
        write_kv(k, v, k_pages, v_pages, places, **scales, backend="reference")

    def index_put() -> None:
        k_pages[page, :, offset] = k
        v_pages[page, :, offset] = v

    written = []
    for run in (native, reference):
        k_pages.zero_(), v_pages.zero_()
        run()
        written.append((k_pages.clone(), v_pages.clone()))
    assert all(torch.equal(ours, wanted) for ours, wanted in zip(*written, strict=True))
    # What is read and what is written.
    nbytes = float(fused.nbytes + fused.numel() * dtype.itemsize)
    words = f"{rows} {'rows' if decoding else 'tokens of a prompt'}, {KV_HEADS} heads of {HEAD_DIM}"
    ways = {"native": native, "reference": reference}
    measure(Case("write_kv", words, dtype, nbytes=nbytes), ways if narrow else ways | {"index_put": index_put})
