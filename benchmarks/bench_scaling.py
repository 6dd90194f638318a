"""Seconds per new token against the tokens in the forest.

    python benchmarks/bench_scaling.py --csv

Problems with 16 branches each, decoded together by a model of SmolLM2-135M's widths with 2 of its layers, bfloat16.
The prompts get longer from row to row, the rows of a step stay as many: what grows is attention. The KV is made up, as
attention takes as long for any. Sizes take turns, each with a few steps of new branches. ``fit``: the line of least
squares through all sizes, ``r2``: the part of the variance that it explains, the same in every row.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import Annotated, Any

import numpy as np
import torch
import typer
from bench_decode import SMOLLM2_135M
from common import write_rows
from paired import seconds_of
from transformers import LlamaConfig, LlamaForCausalLM

from tts_kernels.hf import TreeModel

WIDTH = 16
SIZES = tuple(1 << power for power in range(10, 19))
# Timed ones. One more goes before them, which plans.
STEPS = 4


@dataclass(frozen=True)
class Problems:
    """Prompts of one length."""

    roots: np.ndarray
    unique_tokens: int


def add_problems(tree: TreeModel, problems: int, unique_tokens: int) -> Problems:
    """Prompts such that they and the branches have so many tokens in the middle of the timed steps."""
    own = problems * WIDTH * (1 + STEPS // 2)
    length = (unique_tokens - own) // problems // tree.pool.page_size * tree.pool.page_size
    roots = tree.forest.add_roots(problems)
    tree.forest.append(roots, [length] * problems)
    return Problems(roots, problems * length + own)


def step_seconds(tree: TreeModel, problems: Problems) -> list[float]:
    """Seconds of some steps of new branches, which are given up afterwards."""
    leaves = tree.pool.fork(problems.roots, np.full(len(problems.roots), WIDTH, np.int32), keep=True)
    tokens = np.arange(1000, 1000 + len(leaves))
    tree.logits(leaves, tokens)
    spent = [seconds_of(lambda: tree.logits(leaves, tokens)) for _ in range(STEPS)]
    tree.forest.release(leaves)
    return spent


def make_tree(layers: int, tokens: int, page_size: int = 16) -> TreeModel:
    """A pool for so many tokens, with made-up KV."""
    shape: dict[str, Any] = SMOLLM2_135M | {"num_hidden_layers": layers, "max_position_embeddings": 1 << 20}
    torch.manual_seed(0)
    tree = TreeModel(
        LlamaForCausalLM(LlamaConfig(**shape)).bfloat16().eval(), num_pages=-(-tokens // page_size), page_size=page_size
    )
    drawn = torch.randn(1 << 16).to(tree.pool.layout.dtype)
    flat = tree.pool.pages.view(-1)
    for begin in range(0, len(flat), len(drawn)):
        part = flat[begin : begin + len(drawn)]
        part.copy_(drawn[: len(part)])
    return tree


def fitted(unique: list[int], seconds: list[float]) -> tuple[float, float, float]:
    """Seconds at none, seconds per unique token, and R squared."""
    x, y = np.array(unique, float), np.array(seconds)
    slope, start = np.polyfit(x, y, 1)
    rest = y - (start + slope * x)
    return float(start), float(slope), float(1 - rest @ rest / ((y - y.mean()) @ (y - y.mean())))


def main(
    problems: int = 4,
    layers: int = 2,
    rounds: int = 7,
    threads: int = 1,
    largest: Annotated[int, typer.Option(help="most unique tokens")] = SIZES[-1],
    csv: Annotated[bool, typer.Option(help="write benchmarks/results/scaling.csv")] = False,
) -> None:
    torch.set_num_threads(threads)
    sizes = [size for size in SIZES if size <= largest]
    branches = problems * WIDTH
    # A page for each branch beside the prompts.
    tree = make_tree(layers, sum(sizes) + 16 * branches)
    grown = [add_problems(tree, problems, size) for size in sizes]
    times: list[list[float]] = [[] for _ in grown]
    with tree.attached():
        for index in range(rounds + 1):
            for each, spent in zip(grown, times, strict=True):
                new = step_seconds(tree, each)
                spent += new if index else []
    unique = [each.unique_tokens for each in grown]
    start, slope, r2 = fitted(unique, [median(spent) / branches for spent in times])
    rows: list[dict[str, object]] = []
    for count, spent in zip(unique, times, strict=True):
        ordered = sorted(1e3 * each / branches for each in spent)
        low, high = ordered[len(ordered) // 5], ordered[len(ordered) * 4 // 5]
        row = {"unique_tokens": count, "rows": branches, "layers": layers, "dtype": "bfloat16"}
        row |= {"ms_per_token": round(median(ordered), 5), "ms_p20": round(low, 5), "ms_p80": round(high, 5)}
        row |= {"fit_start_ms": round(1e3 * start, 5), "fit_ns_per_unique_token": round(1e9 * slope, 4)}
        rows.append(row | {"r2": round(r2, 5)})
        print(rows[-1], flush=True)
    if csv:
        print(write_rows("scaling", rows))


if __name__ == "__main__":
    typer.run(main)
