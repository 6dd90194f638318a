"""Branches over a shared prefix: our decoder against everything else that decodes on a CPU, side by side in one run.

    python benchmarks/bench_decode.py --peer vllm=PYTHON --peer llama_cpp=PYTHON --peer ctranslate2=PYTHON --csv

A model of SmolLM2-135M's shape with random weights, the same for all, continues a random prompt ``branches`` times by
``new`` sampled tokens. Seconds include the prefill. Every job runs in a new process of its system's own Python, with
as many cores as threads, after the system has answered prompts whose next token is known and has done a small job. In
every round each system has a turn, in the opposite order every other round, and all get the round's prompt.
``ours_faster``: the median over the rounds of seconds over our seconds. ``cpu_seconds``: of all threads; fewer than
``seconds`` on one thread mean that the machine was busy with something else. ``beyond_weights_mb``: peak of resident
memory less what was resident with the weights loaded. How a peer's environment is made stands in ``peers/NAME.py``.
Linux only.
"""

from __future__ import annotations

import math
import os
import random
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Annotated, Any

import torch
import typer
from common import update_rows
from peers.checkpoint import save_model
from peers.process import Worker, WorkerError

SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}
OURS = "tts_kernels"
MODES = {
    OURS: ("best of n",),
    "transformers": ("repeat", "num_return_sequences", "continuous"),
    "llama_cpp": ("unified", "unified, no flash", "split", "split, no flash"),
    "vllm": ("prefix cache", "no prefix cache"),
    "ctranslate2": ("float32", "int8"),
}
# What tells one row of the CSV from another.
KEYS = ("system", "mode", "dtype", "threads", "branches", "prefix", "new")
FIGURES = ("seconds", "tokens_per_second", "ours_faster", "cpu_seconds", "peak_mb", "beyond_weights_mb")
# Seconds in which a system must load, compile and do a small job.
START_LIMIT = 600.0
WARM_UP = {"prefix": 64, "new": 4}


@dataclass(frozen=True)
class Shape:
    branches: int
    prefix: int
    new: int
    threads: int
    dtype: str


@dataclass
class Cell:
    """One system in one mode. ``answers``: by round. ``reason``: why it runs no longer, or never did."""

    system: str
    mode: str
    answers: dict[int, dict[str, float]] = field(default_factory=dict)
    version: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A saved model with prompts and their likeliest next tokens."""

    folder: Path
    prompts: list[list[int]]
    tokens: list[int]


@dataclass(frozen=True)
class Bench:
    shape: Shape
    checkpoint: Checkpoint
    pythons: dict[str, str]
    limit: float

    def run(self, cell: Cell, round_index: int) -> None:
        """Time one job of the cell in a new process; a job that fails, or takes too long, is the cell's last."""
        python, threads = self.pythons.get(cell.system, sys.executable), self.shape.threads
        job = self.job(self.shape.prefix, self.shape.new, seed=round_index)
        try:
            with TemporaryFile("w+", errors="replace") as log, Worker(python, cell.system, threads, log) as worker:
                self.start(cell, worker)
                answer = worker.ask(job, self.limit)
            wanted = self.shape.branches * self.shape.new
            if answer["tokens"] != wanted:
                raise WorkerError(f"drew {answer['tokens']} tokens of {wanted}")
        except WorkerError as error:
            cell.reason = str(error)
            return
        cell.answers[round_index] = answer

    def start(self, cell: Cell, worker: Worker) -> None:
        """Load the model, prove that it is the model, and warm up."""
        setting = vars(self.shape) | {"mode": cell.mode, "model": str(self.checkpoint.folder)}
        answer = worker.ask(setting | {"check": self.checkpoint.prompts}, START_LIMIT)
        cell.version = answer["version"]
        if answer["next"] != self.checkpoint.tokens:
            raise WorkerError(f"predicts {answer['next']}, not {self.checkpoint.tokens}: it is not the same model")
        worker.ask(self.job(**WARM_UP, seed=-1), START_LIMIT)

    def job(self, prefix: int, new: int, seed: int) -> dict[str, Any]:
        draw = random.Random(seed)
        prompt = [draw.randrange(1000, 20000) for _ in range(prefix)]
        return {"prompt": prompt, "branches": self.shape.branches, "new": new}

    def round(self, cells: list[Cell], index: int, once_over: float) -> None:
        """A turn for every cell that still runs; after the first, only for those not that much slower than ours."""
        for cell in cells[:: -1 if index % 2 else 1]:
            if cell.reason or (index and slower(cell, cells[0]) > once_over):
                continue
            self.run(cell, index)
            told = cell.reason or f"{cell.answers[index]['seconds']:.2f} s"
            print(f"round {index + 1}, {self.shape.dtype}, {cell.system}, {cell.mode}: {told}", flush=True)


def slower(cell: Cell, ours: Cell) -> float:
    """Median over the rounds of the cell's seconds over ours; 0 without a round that both have."""
    shared = [i for i in cell.answers if i in ours.answers]
    return median([cell.answers[i]["seconds"] / ours.answers[i]["seconds"] for i in shared] or [0.0])


def table(cells: list[Cell], shape: Shape) -> list[dict[str, object]]:
    """A row for every cell, the first of which is ours."""
    rows: list[dict[str, object]] = []
    for cell in cells:
        answers = list(cell.answers.values())
        row: dict[str, object] = {"system": cell.system, "mode": cell.mode, "dtype": shape.dtype}
        row |= {"threads": shape.threads, "branches": shape.branches, "prefix": shape.prefix, "new": shape.new}
        row |= dict.fromkeys(FIGURES, "")
        if answers:
            seconds = median(answer["seconds"] for answer in answers)
            row |= {"seconds": round(seconds, 2), "tokens_per_second": round(shape.branches * shape.new / seconds, 1)}
            row["cpu_seconds"] = round(median(answer["cpu_seconds"] for answer in answers), 2)
            row |= {name: round(max(answer[name] for answer in answers)) for name in ("peak_mb", "beyond_weights_mb")}
            row["ours_faster"] = round(slower(cell, cells[0]), 2) or ""
        rows.append(row | {"rounds": len(answers), "version": cell.version, "reason": cell.reason})
    return rows


def show(rows: list[dict[str, object]]) -> None:
    names = [*KEYS[:4], *FIGURES, "reason"]
    lines = [names, *([str(row[name]) for name in names] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*(line[:-1] for line in lines), strict=True)]
    for line in lines:
        print("  ".join([*map(str.ljust, line[:-1], widths), line[-1]]))


def chosen_cells(systems: list[str], dtype: str) -> list[Cell]:
    """Our system first. CTranslate2 makes its own weights of the float32 checkpoint and has no bfloat16."""
    unknown = set(systems) - set(MODES)
    if unknown:
        raise typer.BadParameter(f"systems must be among {', '.join(MODES)}, got {', '.join(sorted(unknown))}")
    names = [name for name in MODES if name == OURS or not systems or name in systems]
    cells = [Cell(name, mode) for name in names for mode in MODES[name]]
    for cell in cells:
        if cell.system == "ctranslate2" and dtype != "float32":
            cell.reason = "no efficient bfloat16 on CPUs"
    return cells


def peer_python(text: str) -> tuple[str, str]:
    """NAME=PYTHON, the path made absolute: workers run in a folder of their own."""
    name, _, python = text.partition("=")
    if name not in MODES or not python:
        raise typer.BadParameter(f"peer must be NAME=PYTHON with NAME among {', '.join(MODES)}, got {text}")
    return name, os.path.abspath(shutil.which(python) or python)


def main(
    branches: int = 32,
    prefix: int = 1024,
    new: int = 64,
    threads: int = 1,
    dtype: Annotated[list[str], typer.Option(help="float32 or bfloat16; may be given twice")] = ["bfloat16"],  # noqa: B006
    rounds: int = 3,
    limit: Annotated[float, typer.Option(help="seconds for one job")] = 300.0,
    once_over: Annotated[float, typer.Option(help="one round for what is so many times slower than ours")] = math.inf,
    peer: Annotated[list[str], typer.Option(help="SYSTEM=PYTHON, for each that has an environment of its own")] = [],  # noqa: B006
    system: Annotated[list[str], typer.Option(help="only these, and ours")] = [],  # noqa: B006
    csv: Annotated[bool, typer.Option(help="write benchmarks/results/decode.csv, rows of this shape anew")] = False,
) -> None:
    for kind in dtype:
        if kind not in ("float32", "bfloat16"):
            raise typer.BadParameter(f"dtype must be float32 or bfloat16, got {kind}")
        pythons = dict(peer_python(text) for text in peer)
        with TemporaryDirectory() as folder:
            checkpoint = Checkpoint(Path(folder), *save_model(Path(folder), SMOLLM2_135M, getattr(torch, kind), seed=0))
            cells = chosen_cells(system, kind)
            shape = Shape(branches, prefix, new, threads, kind)
            bench = Bench(shape, checkpoint, pythons, limit)
            for index in range(rounds):
                bench.round(cells, index, once_over)
                # After every round: one that is broken off loses no other.
                if csv:
                    update_rows("decode", table(cells, shape), KEYS)
        show(table(cells, shape))


if __name__ == "__main__":
    typer.run(main)
