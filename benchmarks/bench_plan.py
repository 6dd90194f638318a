"""How long a plan takes, for FastTree's trees and for leaves that have only begun to differ.

    python benchmarks/bench_plan.py --csv

Made once per fork or prune; ``update`` is what every appended token costs instead.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Annotated

import numpy as np
import torch
import typer
from common import write_rows

from tts_kernels.plan import Plan, make_plan
from tts_kernels.processors import PROCESSORS, AttentionShape, Processor, fewest_bytes
from tts_kernels.testing.trees import FASTTREE, TreeShape, balanced

HEADS = ((32, 32), (32, 8), (64, 8), (16, 1))
REPEATS = 30


def microseconds(run: Callable[[], object]) -> float:
    times = []
    for _ in range(REPEATS):
        begin = time.perf_counter()
        run()
        times.append(1e6 * (time.perf_counter() - begin))
    return round(median(times), 1)


def row_of(shape: TreeShape, heads: tuple[int, int]) -> dict[str, object]:
    forest, leaves = shape.grow(16)
    ones = np.ones(len(leaves), np.int32)
    attention = AttentionShape(*heads, 128, torch.bfloat16)

    def plan(processor: Processor) -> Plan:
        return make_plan(forest, leaves, ones, processor=processor, shape=attention, growth=64, page_reads=True)

    h100 = PROCESSORS["h100"]
    made = plan(h100)
    return {
        "tree": shape.name,
        "leaves": len(leaves),
        "q_heads": heads[0],
        "kv_heads": heads[1],
        "fastest_us": microseconds(lambda: plan(h100)),
        "fewest_bytes_us": microseconds(lambda: plan(fewest_bytes(h100))),
        "update_us": microseconds(lambda: made.update(forest)),
    }


def main(csv: Annotated[bool, typer.Option(help="write results/plan.csv")] = False) -> None:
    rows: list[dict[str, object]] = []
    for shape in (*FASTTREE, balanced((1, 32, 1024), (4096, 128, 1)), balanced((64, 1024), (512, 64))):
        for heads in HEADS:
            rows.append(row_of(shape, heads))
            print(rows[-1])
    if csv:
        print(write_rows("plan", rows))


if __name__ == "__main__":
    typer.run(main)
