"""tree_attention on the CPU against torch's attention over KV that every row has to itself.

    python benchmarks/bench_tree_attention.py --threads 1 --csv

Both and two yardsticks run in turns, so that a busy machine slows all of them: ``torch.mm`` in float32 for arithmetic
and a sum over 256 MB for memory. Percentages are of those. The plan is made once per fork or prune, not per call: its
time stands in a column of its own.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
import typer
from common import write_rows
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tts_kernels import _ext
from tts_kernels.ops.tree_attention import tree_attention
from tts_kernels.ops.tree_attention._reference import visible_tokens
from tts_kernels.plan import Plan, make_plan
from tts_kernels.testing import assert_matches_oracle, peaky

PAGE_SIZE = 16
ISAS = ("base", "avx2", "avx512")


@dataclass(frozen=True)
class Shape:
    """A tree: level i has tokens[i] tokens per node and widths[i] children per node, the last level is leaves."""

    name: str
    tokens: tuple[int, ...]
    widths: tuple[int, ...]
    q_heads: int = 9
    kv_heads: int = 3
    head_dim: int = 64

    @property
    def nodes(self) -> list[int]:
        """Nodes per level."""
        counts = [1]
        for width in self.widths:
            counts.append(counts[-1] * width)
        return counts

    @property
    def flops(self) -> int:
        return 4 * self.head_dim * self.q_heads * self.nodes[-1] * sum(self.tokens)

    def kv_bytes(self, dtype: torch.dtype) -> int:
        """Every stored token once."""
        stored = sum(count * tokens for count, tokens in zip(self.nodes, self.tokens, strict=True))
        return stored * self.kv_heads * 2 * self.head_dim * dtype.itemsize


SHAPES = (
    Shape("32 rows, 1024 shared + 32 own", (1024, 32), (32,)),
    Shape("256 rows, 4 levels", (512, 64, 64, 32), (4, 8, 8)),
    Shape("32 rows, 1024 + 32, llama heads", (1024, 32), (32,), q_heads=32, kv_heads=8, head_dim=128),
    Shape("1 row, 8192", (8192,), ()),
)


def grow(shape: Shape) -> tuple[object, Tensor]:
    """A forest with the shape's tree, and its leaves."""
    forest = _ext.host().Forest(-(-shape.kv_bytes(torch.int8) // (PAGE_SIZE * 2 * shape.head_dim)) + 1024, PAGE_SIZE)
    level = forest.add_roots(1)
    forest.append(level, [shape.tokens[0]])
    for width, tokens in zip(shape.widths, shape.tokens[1:], strict=True):
        level, _, _ = forest.fork(level, [width] * len(level))
        forest.append(level, [tokens] * len(level))
    return forest, level


def unshared(pages: Tensor, plan: Plan) -> Tensor:
    """[N, Hkv, T, D]: each row's path, gathered as decoding without sharing would store it."""
    tokens = torch.stack([t.sort().values for t in visible_tokens(plan, window=0)])
    return pages[tokens // PAGE_SIZE, :, tokens % PAGE_SIZE].transpose(1, 2).contiguous()


def seconds(run: Callable[[], object]) -> float:
    begin = time.perf_counter()
    run()
    return time.perf_counter() - begin


def measure(runs: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Sorted seconds of each, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for round_ in range(rounds + 2):
        for name, run in runs.items():
            spent = seconds(run)
            if round_ >= 2:
                times[name].append(spent)
    return {name: sorted(spent) for name, spent in times.items()}


def bench(shape: Shape, dtype: torch.dtype, rounds: int) -> dict[str, object]:
    forest, leaves = grow(shape)
    plan_times = sorted(seconds(lambda: make_plan(forest, leaves, [1] * len(leaves))) for _ in range(5))
    plan = make_plan(forest, leaves, [1] * len(leaves))
    generator = torch.Generator().manual_seed(0)
    kv_shape = (int(plan.pages.max()) + 1, shape.kv_heads, PAGE_SIZE, shape.head_dim)
    k, v = (peaky(*kv_shape, generator=generator, dtype=dtype) for _ in "kv")
    q = peaky(len(leaves), shape.q_heads, shape.head_dim, generator=generator, dtype=dtype)
    own_k, own_v = unshared(k, plan), unshared(v, plan)

    oracle, same = (
        tree_attention(*(x.to(t) for x in (q, k, v)), plan, backend="reference") for t in (torch.double, dtype)
    )
    assert_matches_oracle(tree_attention(q, k, v, plan, backend="native"), oracle, same, shape.name)

    square, stream = torch.randn(768, 768), torch.zeros(1 << 26)
    times = measure(
        {
            "native": lambda: tree_attention(q, k, v, plan, backend="native"),
            "sdpa": lambda: scaled_dot_product_attention(q[:, :, None], own_k, own_v, enable_gqa=True),
            "mm": lambda: torch.mm(square, square),
            "stream": lambda: stream.sum(),
        },
        rounds,
    )
    median = {name: statistics.median(spent) for name, spent in times.items()}
    flops, nbytes = shape.flops / median["native"] / 1e9, shape.kv_bytes(dtype) / median["native"] / 1e9
    return {
        "shape": shape.name,
        "heads": f"{shape.q_heads}/{shape.kv_heads} d{shape.head_dim}",
        "dtype": str(dtype).removeprefix("torch."),
        "isa": ISAS[torch.ops.tts_kernels.cpu_isa()],
        "ms": round(median["native"] * 1e3, 3),
        "ms_p20": round(times["native"][rounds // 5] * 1e3, 3),
        "ms_p80": round(times["native"][rounds * 4 // 5] * 1e3, 3),
        "gflops": round(flops, 1),
        "pct_of_mm": round(100 * flops / (2 * 768**3 / median["mm"] / 1e9), 1),
        "kv_gbs": round(nbytes, 2),
        "pct_of_stream": round(100 * nbytes / (stream.nbytes / median["stream"] / 1e9), 1),
        "sdpa_ms": round(median["sdpa"] * 1e3, 3),
        "speedup": round(median["sdpa"] / median["native"], 2),
        "plan_ms": round(plan_times[len(plan_times) // 2] * 1e3, 3),
    }


def main(
    threads: int = 1,
    rounds: int = 21,
    only: Annotated[str, typer.Option(help="part of a shape's name")] = "",
    isa: Annotated[str, typer.Option(help="base, avx2 or avx512; the best this processor has if not given")] = "",
    csv: Annotated[bool, typer.Option(help="write benchmarks/results/tree_attention.csv")] = False,
) -> None:
    reason = _ext.why_not_native()
    if reason is not None:
        raise SystemExit(reason)
    torch.set_num_threads(threads)
    if isa and not torch.ops.tts_kernels.set_cpu_isa(ISAS.index(isa)):
        raise SystemExit(f"this processor has no {isa}")
    rows: list[dict[str, object]] = []
    for shape in SHAPES:
        for dtype in (torch.float32, torch.bfloat16) if only in shape.name else ():
            rows.append(bench(shape, dtype, rounds))
            typer.echo("  ".join(f"{name} {value}" for name, value in rows[-1].items()))
    if csv and rows:
        typer.echo(f"written to {write_rows('tree_attention', rows)}")


if __name__ == "__main__":
    typer.run(main)
