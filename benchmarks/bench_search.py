"""Every search on the shipped arithmetic models: what is right at what cost, problem by problem.

    python benchmarks/bench_search.py && python benchmarks/analyse_search.py

A *cell* is one search at one budget. Its results go to ``benchmarks/runs/search/CELL.jsonl``, one problem a line, first
as they come (``.part``), at the end in the order of the problems. A run that was killed goes on where it was and ends
with the same files: what a problem's search finds depends on neither the others nor the order.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from tts_kernels import assets
from tts_kernels.cli import load_decoder
from tts_kernels.decoder import Decoder
from tts_kernels.problems import read_problems
from tts_kernels.search import Problem, Sampling, SearchResult
from tts_kernels.selection import select_answer
from tts_kernels.strategies import make_strategy

RUNS = Path(__file__).parent / "runs" / "search"
POLICIES = {
    "small": assets.POLICY,
    "large": Path(__file__).parent / "models" / "large_policy",
    "reviser": assets.REVISER,
}
AGGREGATES = {"last": lambda scores: scores[-1], "min": min, "prod": math.prod}
STATS = (
    "generations", "tokens", "rollout_tokens", "reused_tokens", "scorer_tokens", "policy_flops", "scorer_flops",
    "kv_bytes",
)  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """One search at one budget. ``aggregate``: of step scores, by which the search goes."""

    strategy: str
    budget: int
    model: str = "small"
    aggregate: str = "prod"
    seed: int = 0

    @property
    def name(self) -> str:
        spec = self.strategy.replace(":", "_").replace("=", "-").replace(",", "_")
        return f"{self.model}-{spec}-{self.aggregate}-{self.budget}-seed{self.seed}"


def powers(last: int, first: int = 1) -> list[int]:
    return [2**k for k in range(int(math.log2(first)), int(math.log2(last)) + 1)]


def plan() -> list[Cell]:
    """All cells, the cheaper half first."""
    cells = [Cell("greedy", 1), Cell("greedy", 1, "large")]
    cells += [Cell("best-of-n", n) for n in powers(256)]
    # Difficulty is estimated from samples of their own.
    cells += [Cell("best-of-n", 256, seed=1)]
    cells += [Cell("best-of-n", n, "large") for n in powers(16)]
    cells += [Cell("beam:width=4", n) for n in powers(256, 4)]
    cells += [Cell("beam:width=sqrt", n) for n in (4, 16, 64, 256)]
    cells += [Cell("dvts:width=4", n) for n in powers(256, 4)]
    cells += [Cell(f"rebase:temperature={t}", n) for t in (0.1, 0.2) for n in powers(256, 2)]
    cells += [Cell("particles", n) for n in powers(256, 2)]
    looks = ("lookahead:width=sqrt,ahead=1", "lookahead:width=4,ahead=1", "lookahead:width=4,ahead=3")
    cells += [Cell(look, n) for look in looks for n in (4, 16, 64)]
    cells += [Cell("ets", n) for n in powers(64, 2)]
    cells += [Cell(mcts, n) for mcts in ("mcts:rule=uct", "mcts:rule=puct,exploration=1.25") for n in powers(64, 2)]
    cells += [Cell(f"revisions:sequential={s},between=question", n, "reviser") for n in (4, 16, 64) for s in powers(n)]
    cells += [
        Cell(spec, 16, aggregate=how) for spec in ("beam:width=4", "rebase:temperature=0.1") for how in ("last", "min")
    ]
    cells += [Cell(f"adaptive:agree={agree}", n) for agree in (3, 99) for n in powers(64, 16)]
    return sorted(cells, key=lambda cell: cell.budget > 64)


def outcome(result: SearchResult) -> dict[str, Any]:
    """What is kept of one problem: whether each way of choosing among the solutions is right, and what they cost."""
    tree, problem = result.tree, result.problem
    # A solution that is nothing but its end has no step.
    scores = [[s for part in tree.solution_nodes(node) for s in part.step_scores] for node in tree.complete()]
    row: dict[str, Any] = {"id": problem.id, "error": result.error}
    right: dict[str, int] = {}
    for aggregate, combine in AGGREGATES.items():
        judged = [replace(c, score=combine(s) if s else 0.0) for c, s in zip(result.candidates, scores, strict=True)]
        for how in ("weighted", "best", "guarded", "hierarchical"):
            right[f"{how}-{aggregate}"] = int(select_answer(judged, how) == problem.answer)  # type: ignore[arg-type]
    right["majority"] = int(select_answer(result.candidates, "majority") == problem.answer)
    row["right"] = right
    row["solutions"] = [int(c.answer == problem.answer) for c in result.candidates]
    # Coarse, so that rounding that depends on the company of a problem does not show.
    row["mean_final"] = round(sum(math.prod(s) for s in scores if s) / max(1, len(scores)), 3)
    return row | {name: getattr(result.stats, name) for name in STATS}


class Bench:
    def __init__(self, problems: list[Problem], runs: Path, max_rows: int) -> None:
        self.problems, self.runs, self.max_rows = problems, runs, max_rows
        # Of all problems: an earlier run may have had more of them.
        self.order = {problem.id: place for place, problem in enumerate(read_problems(assets.SEARCH_PROBLEMS))}
        runs.mkdir(parents=True, exist_ok=True)

    def decoder(self, cell: Cell) -> Decoder:
        options: dict[str, Any] = {"aggregate": cell.aggregate, "backend": None, "max_rows": self.max_rows}
        return load_decoder(str(POLICIES[cell.model]), f"prm:{assets.PRM}", assets.SEPARATOR, "float32", **options)

    def run(self, cell: Cell, progress: Progress) -> None:
        """Search the problems that the cell's file lacks."""
        path = self.runs / f"{cell.name}.jsonl"
        part = path.with_suffix(".part")
        done = {row["id"]: row for file in (path, part) for row in read_rows(file)}
        todo = [problem for problem in self.problems if problem.id not in done]
        task = progress.add_task(cell.name, total=len(self.problems), completed=len(self.problems) - len(todo))
        if todo:
            # A torn last line is left out of what is written again.
            write_rows(part, done.values())
            sampling = Sampling(temperature=0.0 if cell.strategy == "greedy" else 0.8, seed=cell.seed)
            with part.open("a") as stream:
                for result in self.decoder(cell).search(todo, make_strategy(cell.strategy, cell.budget), sampling):
                    row = outcome(result)
                    done[row["id"]] = row
                    stream.write(json.dumps(row) + "\n")
                    stream.flush()
                    progress.advance(task)
            write_rows(part, sorted(done.values(), key=lambda row: self.order[row["id"]]))
            part.replace(path)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a cell's file, a torn last line left out."""
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            return


def write_rows(path: Path, rows: Any) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text("".join(json.dumps(row) + "\n" for row in rows))
    scratch.replace(path)


def main(
    limit: Annotated[int, typer.Option(help="problems per cell")] = 200,
    part: Annotated[str, typer.Option(help="I/N: every N-th cell from I on, for N processes")] = "0/1",
    only: Annotated[str, typer.Option(help="cells whose name contains this")] = "",
    runs: Path = RUNS,
    max_rows: int = 1024,
) -> None:
    torch.set_num_threads(1)
    index, count = map(int, part.split("/"))
    bench = Bench(read_problems(assets.SEARCH_PROBLEMS, limit), runs, max_rows)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        for cell in [cell for cell in plan() if only in cell.name][index::count]:
            if POLICIES[cell.model].exists():
                bench.run(cell, progress)
            else:
                progress.console.print(f"{cell.name}: skipped, {POLICIES[cell.model]} is not there")


if __name__ == "__main__":
    typer.run(main)
