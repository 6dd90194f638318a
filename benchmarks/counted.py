"""The CUDA kernel's own traffic, counted while the host runs it (tests/cuda/README.md): for ``bench_traffic.py``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from systems import OURS

from tts_kernels.accounting import Call
from tts_kernels.ops.tree_attention import tree_attention
from tts_kernels.plan import make_plan
from tts_kernels.processors import AttentionShape
from tts_kernels.testing.trees import TreeShape

# The A100's: the kernels for all, tiles of up to 256 matrix rows.
CAPABILITY, TILE = 80, 256


def count(call: Call, page_size: int) -> dict[str, int]:
    """Bytes of one kv head, by what they are."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "cuda"))
    from execution import Execution, load

    load()
    plan, group, dim = call.plan, call.shape.group, call.shape.head_dim
    pages = int(plan.pages[plan.pages < 2**31 - 1].max()) + 1
    k, v = torch.zeros(2, pages, 1, page_size, dim, dtype=torch.bfloat16)
    q = torch.zeros(call.rows, group, dim, dtype=torch.bfloat16)
    with Execution(count=True, capability=CAPABILITY) as run:
        tree_attention(q, k, v, plan, backend="native")
    tensors = run.launches[0].tensors
    assert run.launches[0].shared["matrix"].conflicts == run.launches[0].shared["copied"].conflicts == 0
    parts = [tensors["part_out"], tensors["part_lse"]]
    return {
        "kv": tensors["k_pages"].load_bytes + tensors["v_pages"].load_bytes,
        "q": tensors["q"].load_bytes,
        "out": tensors["out"].store_bytes,
        "parts": sum(x.load_bytes + x.store_bytes for x in parts),
        "kv_sectors": 32 * (tensors["k_pages"].load_sectors + tensors["v_pages"].load_sectors),
    }


def rows_of(shape: TreeShape, heads: tuple[int, int], page_size: int) -> Iterator[dict[str, object]]:
    """Counted and planned bytes, all kv heads. Raises AssertionError where they differ."""
    attention = AttentionShape(*heads, 128, torch.bfloat16)
    for name, processor in OURS.items():
        forest, leaves = shape.grow(page_size)
        ones = np.ones(len(leaves), np.int32)
        plan = make_plan(forest, leaves, ones, shape=attention, processor=processor, page_reads=True)
        call = Call(plan, attention, ones)
        planned, found = call.ours(tile=TILE), count(call, page_size)
        row = {"tree": shape.name, "q_heads": heads[0], "kv_heads": heads[1], "plan": name}
        for what in ("kv", "q", "out", "parts"):
            row |= {f"{what}_counted": heads[1] * found[what], f"{what}_planned": getattr(planned, what)}
            assert row[f"{what}_counted"] == row[f"{what}_planned"], row
        yield row | {"kv_sectors": heads[1] * found["kv_sectors"]}
