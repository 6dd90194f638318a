"""tree_attention on a GPU against every peer that is installed, over FastTree's trees.

    python benchmarks/bench_gpu.py --csv        (or: make gpu)
    TRITON_INTERPRET=1 python benchmarks/bench_gpu.py --dry

Every call is compared with the float64 reference before it is timed. Medians and 20th and 80th percentiles with the L2
flushed; the time of planning stands in a column of its own. ``--dry`` walks the same code over one small tree on the
CPU, Triton's kernel in its interpreter, and times nothing.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated

import numpy as np
import torch
import typer
from common import write_rows
from torch import Tensor

from tts_kernels.accounting import Call
from tts_kernels.backends import why_not
from tts_kernels.ops.tree_attention import tree_attention
from tts_kernels.ops.tree_attention._reference import visible_tokens
from tts_kernels.plan import make_plan
from tts_kernels.processors import AttentionShape, fewest_bytes, processor_of
from tts_kernels.testing import assert_matches_oracle, interpreter
from tts_kernels.testing.trees import FASTTREE, TreeShape, balanced

HEADS = ((32, 32), (32, 8), (64, 8), (16, 1))
PAGE_SIZE = 16


@dataclass
class Problem:
    """One tree with its pages, queries and plan on a device."""

    shape: TreeShape
    attention: AttentionShape
    device: torch.device

    def __post_init__(self) -> None:
        self.forest, self.leaves = self.shape.grow(PAGE_SIZE)
        self.ones = np.ones(len(self.leaves), np.int32)
        highest = max(int(self.forest.page_table(int(leaf)).max()) for leaf in self.leaves)
        size = (highest + 1, self.attention.kv_heads, PAGE_SIZE, self.attention.head_dim)
        generator = torch.Generator(self.device).manual_seed(0)
        options = {"generator": generator, "device": self.device, "dtype": self.attention.dtype}
        self.k, self.v = torch.randn(size, **options), torch.randn(size, **options)
        self.q = torch.randn(len(self.leaves), self.attention.q_heads, self.attention.head_dim, **options)

    def plan(self, least: bool = False):
        processor = processor_of(self.device)
        return make_plan(
            self.forest, self.leaves, self.ones, shape=self.attention, page_reads=True, device=self.device,
            processor=fewest_bytes(processor) if least else processor,
        )  # fmt: skip

    def dense(self, plan) -> tuple[Tensor, Tensor, Tensor]:
        """Keys and values [N, Hq, longest, D] of every row by itself, and the mask [N, 1, 1, longest]."""
        tokens = visible_tokens(plan, 0)
        longest = max(len(t) for t in tokens)
        index = torch.stack([torch.nn.functional.pad(t, (0, longest - len(t))) for t in tokens]).to(self.device)
        lengths = torch.tensor([len(t) for t in tokens], device=self.device)
        mask = (torch.arange(longest, device=self.device) < lengths[:, None])[:, None, None]
        group = self.attention.group
        kv = (x[index // PAGE_SIZE, :, index % PAGE_SIZE].transpose(1, 2) for x in (self.k, self.v))
        k, v = (x.repeat_interleave(group, dim=1) for x in kv)
        return k, v, mask


def systems(problem: Problem) -> dict[str, Callable[[], Tensor] | str]:
    """What is timed: a function that returns out [N, Hq, D], or the reason why there is none."""
    plan, least = problem.plan(), problem.plan(least=True)
    args = (problem.q, problem.k, problem.v)
    found: dict[str, Callable[[], Tensor] | str] = {}
    for backend in ("native", "triton"):
        reason = why_not("tree_attention", backend, problem.device)
        for suffix, each in (("", plan), (", fewest bytes", least)):
            run = partial(tree_attention, *args, each, backend=backend)
            found[f"ours, {backend}{suffix}"] = reason or run
    found["torch SDPA, expanded"] = sdpa(problem, plan)
    found["flash-attn, unshared"] = flash_attn(problem)
    found["flashinfer, paged, unshared"] = flashinfer(problem)
    return found


def sdpa(problem: Problem, plan) -> Callable[[], Tensor] | str:
    shape = problem.attention
    copies = (
        2 * len(plan.row_pos) * (int(plan.row_pos.max()) + 1) * shape.q_heads * shape.head_dim * shape.dtype.itemsize
    )
    if copies > 24 << 30:
        return f"expanded keys and values would take {copies >> 30} GiB"
    k, v, mask = problem.dense(plan)
    q = problem.q[:, :, None]
    return lambda: torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)[:, :, 0]


def flash_attn(problem: Problem) -> Callable[[], Tensor] | str:
    if problem.device.type != "cuda" or importlib.util.find_spec("flash_attn") is None:
        return "flash-attn is not installed" if problem.device.type == "cuda" else "needs a GPU"
    from flash_attn import flash_attn_with_kvcache

    # Its pages hold 256 tokens or more, so every path has a cache of its own.
    k, v, mask = problem.dense(problem.plan())
    k, v = (x[:, :: problem.attention.group].transpose(1, 2).contiguous() for x in (k, v))
    lengths = mask.sum(-1, dtype=torch.int32).flatten()
    return lambda: flash_attn_with_kvcache(problem.q[:, None], k, v, cache_seqlens=lengths)[:, 0]


def flashinfer(problem: Problem) -> Callable[[], Tensor] | str:
    if problem.device.type != "cuda" or importlib.util.find_spec("flashinfer") is None:
        return "flashinfer is not installed" if problem.device.type == "cuda" else "needs a GPU"
    from flashinfer import BatchDecodeWithPagedKVCacheWrapper

    shape, device = problem.attention, problem.device
    pages = [problem.forest.page_table(int(leaf)) for leaf in problem.leaves]
    lengths = problem.forest.length(problem.leaves).tolist()
    ends = np.cumsum([0, *map(len, pages)])
    wrapper = BatchDecodeWithPagedKVCacheWrapper(torch.empty(256 << 20, dtype=torch.uint8, device=device), "HND")
    last = [(length - 1) % PAGE_SIZE + 1 for length in lengths]
    integers = [
        torch.tensor(np.array(x), dtype=torch.int32, device=device) for x in (ends, np.concatenate(pages), last)
    ]
    wrapper.plan(*integers, shape.q_heads, shape.kv_heads, shape.head_dim, PAGE_SIZE, q_data_type=shape.dtype)
    return lambda: wrapper.run(problem.q, (problem.k, problem.v))


def rows_of(problem: Problem, dry: bool) -> list[dict[str, object]]:
    plan = problem.plan()
    args = [x.double() for x in (problem.q, problem.k, problem.v)]
    exact = tree_attention(*args, plan, backend="reference")
    same = tree_attention(problem.q, problem.k, problem.v, plan, backend="reference")
    begin = time.perf_counter()
    problem.plan()
    plan_ms = 1e3 * (time.perf_counter() - begin)
    floor = Call(plan, problem.attention, problem.ones).floor().total
    rows = []
    for name, run in systems(problem).items():
        if isinstance(run, str):
            print(f"  {name}: left out: {run}")
            continue
        assert_matches_oracle(run(), exact, same, name)
        row: dict[str, object] = {
            "tree": problem.shape.name, "q_heads": problem.attention.q_heads, "kv_heads": problem.attention.kv_heads,
            "system": name, "plan_ms": round(plan_ms, 3), "floor_bytes": floor,
        }  # fmt: skip
        if not dry:
            from triton.testing import do_bench

            p20, median, p80 = do_bench(run, quantiles=[0.2, 0.5, 0.8])
            row |= {"ms": median, "ms_p20": p20, "ms_p80": p80, "floor_gb_s": round(floor / median / 1e6, 1)}
        rows.append(row)
        print("  ", {key: value for key, value in row.items() if key not in ("tree", "floor_bytes")})
    return rows


def main(
    csv: Annotated[bool, typer.Option(help="write results/gpu.csv")] = False,
    dry: Annotated[bool, typer.Option(help="one small tree on the CPU, nothing is timed")] = False,
) -> None:
    if not dry and not torch.cuda.is_available():
        raise typer.BadParameter("there is no GPU here: --dry walks the steps without one")
    device = torch.device("cpu" if dry else "cuda")
    if dry:
        # Without it Triton's interpreter gets bfloat16 wrong.
        interpreter.install()
    small = [balanced((1, 2, 6), (40, 20, 9))]
    rows: list[dict[str, object]] = []
    for heads in HEADS[1:2] if dry else HEADS:
        for shape in small if dry else FASTTREE:
            print(f"{heads[0]}/{heads[1]} heads, {shape.name}")
            attention = AttentionShape(*heads, 128, torch.bfloat16)
            rows += rows_of(Problem(shape, attention, device), dry)
    if csv and not dry:
        name = torch.cuda.get_device_name(device)
        write_rows("gpu", [row | {"gpu": name} for row in rows])


if __name__ == "__main__":
    typer.run(main)
