"""Beam search over tokens: ``token_beam_search`` against transformers' ``generate(num_beams)``, in pairs of runs.

    python benchmarks/bench_token_beam.py --csv

A model of SmolLM2-135M's shape with random weights, float32, in one process. A pair of runs has a prompt of its own,
which must give the same tokens in both; every other pair begins with the other system. Seconds include the prompt.
``faster``: the median over the pairs of transformers' seconds over ours; ``faster_cpu``: of seconds that the process
was computing, which others on the machine hardly change. ``outside_percent``: the part of our computing that is not
the model's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import Annotated, Any, TypeAlias

import torch
import typer
from bench_decode import SMOLLM2_135M
from common import write_rows
from transformers import LlamaConfig, LlamaForCausalLM

from tts_kernels.hf import TreeModel
from tts_kernels.token_beam import token_beam_search


@dataclass(frozen=True)
class Setting:
    beams: int
    prefix: int
    new: int


System: TypeAlias = Callable[[LlamaForCausalLM, list[int], Setting], list[int]]


class Forwards:
    """Counts the seconds that a model computes."""

    def __init__(self, model: LlamaForCausalLM) -> None:
        self.seconds = self._begin = 0.0
        for part in (model.model, model.lm_head):
            part.register_forward_pre_hook(self._enter)
            part.register_forward_hook(self._leave)

    def _enter(self, *_: object) -> None:
        self._begin = time.process_time()

    def _leave(self, *_: object) -> None:
        self.seconds += time.process_time() - self._begin


@dataclass(frozen=True)
class Timed:
    """One run. ``seconds``: on the clock, and computing."""

    tokens: list[int]
    seconds: tuple[float, float]


def make_model(seed: int) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M)).eval()
    model.generation_config.eos_token_id = None
    return model


def timed(system: System, model: LlamaForCausalLM, prompt: list[int], setting: Setting) -> Timed:
    wall, computing = time.perf_counter(), time.process_time()
    tokens = system(model, prompt, setting)
    return Timed(tokens, (time.perf_counter() - wall, time.process_time() - computing))


def ours(model: LlamaForCausalLM, prompt: list[int], setting: Setting) -> list[int]:
    options: dict[str, Any] = {"num_beams": setting.beams, "max_new_tokens": setting.new, "eos_ids": ()}
    ((best,),) = token_beam_search(TreeModel(model), [prompt], **options)
    return best.tokens


def theirs(model: LlamaForCausalLM, prompt: list[int], setting: Setting) -> list[int]:
    options: dict[str, Any] = {"num_beams": setting.beams, "max_new_tokens": setting.new, "min_new_tokens": setting.new}
    ids = torch.tensor([prompt])
    out = model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, pad_token_id=0, **options)
    return out[0, len(prompt) :].tolist()


def row_of(model: LlamaForCausalLM, forwards: Forwards, setting: Setting, pairs: int) -> dict[str, object]:
    runs: dict[System, list[Timed]] = {ours: [], theirs: []}
    outside = []
    for pair in range(pairs):
        prompt = torch.randint(1000, 20000, (setting.prefix,), generator=torch.Generator().manual_seed(pair)).tolist()
        for system in (ours, theirs) if pair % 2 == 0 else (theirs, ours):
            before = forwards.seconds
            runs[system].append(timed(system, model, prompt, setting))
            if system is ours:
                outside.append(1 - (forwards.seconds - before) / runs[ours][-1].seconds[1])
        if runs[ours][-1].tokens != runs[theirs][-1].tokens:
            raise RuntimeError(f"pair {pair}: the two found different tokens")
    both = list(zip(runs[ours], runs[theirs], strict=True))
    return asdict(setting) | {
        "dtype": "float32",
        "pairs": pairs,
        "seconds": round(median(run.seconds[0] for run in runs[ours]), 2),
        "generate_seconds": round(median(run.seconds[0] for run in runs[theirs]), 2),
        "faster": round(median(b.seconds[0] / a.seconds[0] for a, b in both), 2),
        "faster_cpu": round(median(b.seconds[1] / a.seconds[1] for a, b in both), 2),
        "outside_percent": round(100 * median(outside), 1),
    }


def main(
    beams: int = 16,
    prefix: int = 512,
    new: Annotated[list[int] | None, typer.Option(help="once per row")] = None,
    pairs: int = 3,
    threads: int = 1,
    seed: int = 0,
    csv: Annotated[bool, typer.Option(help="write results/token_beam.csv")] = False,
) -> None:
    torch.set_num_threads(threads)
    model = make_model(seed)
    for system in (ours, theirs):
        system(model, list(range(1000, 1032)), Setting(beams, 32, 2))
    forwards, rows = Forwards(model), []
    for count in new or [64, 512]:
        rows.append(row_of(model, forwards, Setting(beams, prefix, count), pairs))
        print(rows[-1], flush=True)
    if csv:
        print(write_rows("token_beam", rows))


if __name__ == "__main__":
    typer.run(main)
