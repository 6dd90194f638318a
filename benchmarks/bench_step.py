"""Where the time of one decoding step goes: branches over a shared prefix, a model of SmolLM2-135M's shape.

    python benchmarks/bench_step.py --csv

Operators are timed by torch's profiler; what no operator accounts for is Python: transformers' modules, the decoder and
calls into torch. The profiler slows Python down, so its share is an upper bound; ``step_ms`` is measured without it.
"""

from __future__ import annotations

import statistics
import time
from typing import Annotated

import torch
import typer
from bench_decode import SMOLLM2_135M
from common import write_rows
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from tts_kernels import BestOfN, Decoder, Problem, Sampling

PARTS = {
    "weights": ("tts_kernels::linear", "aten::addmm", "aten::mm"),
    "attention": ("tts_kernels::tree_attention",),
    "write_kv": ("tts_kernels::write_kv",),
    "norms_and_gates": ("tts_kernels::rms_norm", "tts_kernels::silu_mul"),
    "sampling": ("tts_kernels::sample_children",),
}


def decode(decoder: Decoder, prompt: list[int], branches: int, new: int) -> float:
    """Seconds of drawing ``new`` tokens in every branch, prefill included."""
    begin = time.perf_counter()
    list(decoder.search([Problem("step", prompt)], BestOfN(branches), Sampling(1.0, max_tokens=new)))
    return time.perf_counter() - begin


def profiled(decoder: Decoder, prompt: list[int], branches: int, new: int) -> dict[str, float]:
    """Seconds of each part of a run, and of all of it."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        total = decode(decoder, prompt, branches, new)
    spent = {event.key: event.self_cpu_time_total / 1e6 for event in profiler.key_averages()}
    parts = {part: sum(spent.get(name, 0.0) for name in names) for part, names in PARTS.items()}
    parts["other_operators"] = sum(spent.values()) - sum(parts.values())
    return parts | {"python": total - sum(spent.values()), "total": total}


def shares(decoder: Decoder, prompt: list[int], branches: int, new: int) -> dict[str, float]:
    """Share of each part in the time of the steps: a run less one that ends with the first token."""
    whole, first = (profiled(decoder, prompt, branches, tokens) for tokens in (new, 1))
    steps = {part: whole[part] - first[part] for part in whole}
    total = steps.pop("total")
    return {part: seconds / total for part, seconds in steps.items()}


def main(
    branches: int = 32,
    prefix: int = 1024,
    new: int = 64,
    threads: int = 1,
    csv: Annotated[bool, typer.Option(help="write benchmarks/results/step.csv")] = False,
) -> None:
    torch.set_num_threads(threads)
    rows: list[dict[str, object]] = []
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M)).to(dtype).eval()
        decoder = Decoder(model, separator=[], eos_ids=[])
        prompt = torch.randint(1000, 20000, (prefix,)).tolist()
        decode(decoder, prompt[:32], 2, 2)
        steps = [
            (decode(decoder, prompt, branches, new) - decode(decoder, prompt, branches, 1)) / (new - 1)
            for _ in range(3)
        ]
        parts = shares(decoder, prompt, branches, new)
        row: dict[str, object] = {"branches": branches, "prefix": prefix, "dtype": str(dtype).removeprefix("torch.")}
        row |= {"step_ms": round(1e3 * statistics.median(steps), 1)}
        rows.append(row | {part: round(share, 3) for part, share in parts.items()})
        print(rows[-1], flush=True)
    if csv:
        print(write_rows("step", rows))


if __name__ == "__main__":
    typer.run(main)
