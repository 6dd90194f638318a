"""Bytes that one attention call moves, ours against other ways of decoding the same trees: counted, not timed.

    python benchmarks/bench_traffic.py --csv
    python benchmarks/bench_traffic.py --cuda    # the CUDA kernel on FastTree's trees, executed and counted: minutes

Trees: FastTree's fifteen, forests with several roots, trees without sharing, uneven random trees, and trees recorded
from searches. ``requested`` is what processors ask the shared cache for; ``memory`` what misses an LRU cache of 50 MB
(kv heads run one after the other); times are predicted by roofline, none is measured. Heads of 128, bfloat16.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from statistics import median
from typing import Annotated

import torch
import typer
from common import write_rows
from systems import OURS, Others, from_memory, ours, predicted_us

from tts_kernels.processors import PROCESSORS, AttentionShape
from tts_kernels.testing.trees import FASTTREE, TreeShape, balanced, random_shape

HEADS = ((32, 32), (32, 8), (64, 8), (16, 1))
CACHE_BYTES = 50 << 20
RECORDED = Path(__file__).parent / "trees" / "recorded.json"


def forest(name: str, trees: list[TreeShape]) -> TreeShape:
    """Several trees side by side."""
    parents: list[int] = []
    tokens: list[int] = []
    for tree in trees:
        first = len(parents)
        parents += [parent + first if parent >= 0 else -1 for parent in tree.parents]
        tokens += tree.tokens
    return TreeShape(name, tuple(parents), tuple(tokens))


def shapes() -> Iterator[tuple[str, TreeShape]]:
    for tree in FASTTREE:
        yield "fasttree", tree
    yield "forest", forest("8 x (1,32 / 512,64)", [balanced((1, 32), (512, 64))] * 8)
    yield "forest", forest("32 x (1,4,16 / 256,64,32)", [balanced((1, 4, 16), (256, 64, 32))] * 32)
    system = balanced((1, 6, 24, 96), (512, 128, 256, 64))
    yield "forest", forest("system prompt over users, and 16 alone", [system, *[balanced((1,), (700,))] * 16])
    yield "unshared", balanced((64,), (1024,), "64 alone / 1024")
    yield "unshared", balanced((1,), (8192,), "1 alone / 8192")
    rng = Random(1)
    for i in range(8):
        yield "random", random_shape(rng, f"random {i}")
    for item in json.loads(RECORDED.read_text()):
        yield "recorded", TreeShape(item["name"], tuple(item["parents"]), tuple(item["tokens"]))


def rows_of(kind: str, shape: TreeShape, heads: tuple[int, int], page_size: int) -> Iterator[dict[str, object]]:
    attention = AttentionShape(*heads, 128, torch.bfloat16)
    decodings = {}
    for name, processor in OURS.items():
        call, decodings[name] = ours(shape, attention, processor, page_size)
    decodings |= Others(call).all()
    floor = call.floor()
    page_bytes = page_size * attention.token_bytes
    columns = {"kind": kind, "tree": shape.name, "q_heads": heads[0], "kv_heads": heads[1], "rows": call.rows}
    yield columns | {"system": "floor", "requested": floor.total, "over_floor": 1.0, "memory": floor.total}
    for name, decoding in decodings.items():
        moved = decoding.moved
        misses = from_memory(decoding, page_bytes, CACHE_BYTES) * heads[1]
        # What is not KV is read or written once, and copies miss.
        memory = misses + floor.q + floor.out + moved.parts // 2 + moved.copied
        yield columns | {
            "system": name, "requested": moved.total, "over_floor": round(moved.total / floor.total, 4),
            "memory": memory, "flops": decoding.flops, "launches": moved.launches,
        } | {
            f"predicted_us_{gpu}": round(predicted_us(PROCESSORS[gpu], moved, memory, decoding.flops), 1)
            for gpu in ("h100", "a100", "rtx4090")
        }  # fmt: skip


def count_cuda(page_size: int) -> None:
    """Writes results/traffic_cuda.csv; stops where the kernel moves other bytes than its plan says."""
    import counted

    rows = []
    for shape in FASTTREE:
        for row in counted.rows_of(shape, (32, 8), page_size):
            rows.append(row)
            print(f"  {row['tree']:60} {row['plan']:24} kv {row['kv_counted']:>12} = planned", flush=True)
    print(write_rows("traffic_cuda", rows))


def main(
    csv: Annotated[bool, typer.Option(help="write results/traffic.csv")] = False,
    cuda: Annotated[
        bool, typer.Option(help="count the CUDA kernel instead and write results/traffic_cuda.csv")
    ] = False,
    page_size: Annotated[int, typer.Option(help="tokens per page; 8 divides all of FastTree's nodes")] = 8,
) -> None:
    if cuda:
        return count_cuda(page_size)
    rows: list[dict[str, object]] = []
    for heads in HEADS:
        for kind, shape in shapes():
            rows += rows_of(kind, shape, heads, page_size)
        names = dict.fromkeys(row["system"] for row in rows)
        print(f"{heads[0]}/{heads[1]} heads, requested bytes over the floor, FastTree's trees: median, worst")
        for name in names:
            ratios = [
                float(str(row["over_floor"])) for row in rows
                if row["system"] == name and row["kind"] == "fasttree" and row["kv_heads"] == heads[1]
                and row["q_heads"] == heads[0]
            ]  # fmt: skip
            print(f"  {name:36} {median(ratios):8.2f} {max(ratios):8.2f}")
    if csv:
        columns = list(dict.fromkeys(key for row in rows for key in row))
        print(write_rows("traffic", [{key: row.get(key, "") for key in columns} for row in rows]))


if __name__ == "__main__":
    typer.run(main)
