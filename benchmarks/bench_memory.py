"""Peak memory of best-of-N searches against the least that they can take.

    python benchmarks/bench_memory.py --csv

A model of SmolLM2-135M's shape with random weights, bfloat16; each number of branches in a new process. ``peak_mb``:
the highest resident memory of the search less what was resident just before it, weights left out that way. The pool has
exactly the pages that the search needs; they count as resident when they are first written.

``closed_form_mb``, for N branches of T new tokens behind a prompt of P, pages of S tokens, hidden size H, feed-forward
size I and vocabulary V, in elements of the model's dtype, is the larger of

    the prompt's call   its pages, P (2 H + 2 I): hidden states in and behind a norm, gate and up of a layer
    the last step       all pages, N (V + H): logits and the hidden states that they come from

Pages: P // S shared ones and ceil((P mod S + T - 1) / S) for each branch, as its last token is never fed. Linux only.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_decode import SMOLLM2_135M
from bench_prm_memory import resident_mb
from common import write_rows
from transformers import LlamaConfig, LlamaForCausalLM

from tts_kernels import BestOfN, Decoder, Problem, RunStats, Sampling
from tts_kernels.hf import kv_layout
from tts_kernels.kv_pool import KVLayout

BRANCHES = (8, 32, 128, 512)
DTYPE = torch.bfloat16


@dataclass(frozen=True)
class Setting:
    branches: int
    prefix: int
    new: int

    def pages(self, page_size: int, branches: int) -> int:
        own = -(-(self.prefix % page_size + self.new - 1) // page_size)
        return self.prefix // page_size + branches * own

    def closed_form(self, layout: KVLayout) -> float:
        """Bytes."""
        hidden, inner, vocabulary = (SMOLLM2_135M[k] for k in ("hidden_size", "intermediate_size", "vocab_size"))
        prompt = self.prefix * (2 * hidden + 2 * inner) * DTYPE.itemsize
        step = self.branches * (vocabulary + hidden) * DTYPE.itemsize
        shared, everything = (self.pages(layout.page_size, n) * layout.page_bytes for n in (0, self.branches))
        return float(max(shared + prompt, everything + step))


def search(decoder: Decoder, setting: Setting, stats: RunStats | None = None) -> None:
    prompt = torch.randint(1000, 20000, (setting.prefix,), generator=torch.Generator().manual_seed(0)).tolist()
    sampling = Sampling(1.0, max_step_tokens=setting.new, max_tokens=setting.new)
    (result,) = decoder.search([Problem("bench", prompt)], BestOfN(setting.branches), sampling, stats=stats)
    drawn = sum(len(candidate.tokens) for candidate in result.candidates)
    if result.error or drawn != setting.branches * setting.new:
        raise RuntimeError(f"search: must draw {setting.branches} x {setting.new} tokens, got {drawn}: {result.error}")


def measure(setting: Setting, threads: int) -> dict[str, object]:
    """To be called in a process of its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    shape: dict[str, Any] = SMOLLM2_135M
    model = LlamaForCausalLM(LlamaConfig(**shape)).bfloat16().eval()
    layout = kv_layout(model)
    # What libraries allocate once, for a prompt of this length too, is no part of the search.
    search(Decoder(model, separator=[], eos_ids=[], num_pages=128), Setting(4, setting.prefix, 4))
    pages = setting.pages(layout.page_size, setting.branches)
    decoder = Decoder(model, separator=[], eos_ids=[], num_pages=pages)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_mb("VmRSS")
    stats = RunStats()
    search(decoder, setting, stats)
    peak = resident_mb("VmHWM") - before
    if stats.policy["peak_pages"] != pages:
        raise RuntimeError(f"measure: the search must use {pages} pages, got {stats.policy['peak_pages']}")
    least = setting.closed_form(layout) / 1e6
    row: dict[str, object] = {"branches": setting.branches, "prefix": setting.prefix, "new": setting.new}
    row |= {"dtype": str(DTYPE).removeprefix("torch."), "unique_tokens": pages * layout.page_size}
    return row | {"peak_mb": round(peak, 1), "closed_form_mb": round(least, 1), "ratio": round(peak / least, 3)}


def main(
    prefix: int = 1024,
    new: int = 64,
    threads: int = 1,
    branches: Annotated[list[int] | None, typer.Option(help="once per row; 8, 32, 128 and 512 if not given")] = None,
    csv: Annotated[bool, typer.Option(help="write benchmarks/results/memory.csv")] = False,
) -> None:
    # write_rows reports this process's threads.
    torch.set_num_threads(threads)
    # For the new processes: glibc's threshold adapts unless it is set, and freed memory may then stay resident.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(128 << 10)
    rows: list[dict[str, object]] = []
    for count in branches or BRANCHES:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
            rows.append(fresh.submit(measure, Setting(count, prefix, new), threads).result())
        print(rows[-1], flush=True)
    if csv:
        print(write_rows("memory", rows))


if __name__ == "__main__":
    typer.run(main)
