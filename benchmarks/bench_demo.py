"""The demo's searches, written to ``results/demo.csv``: accuracy, tokens and bytes of each strategy."""

from __future__ import annotations

import typer
from common import write_rows

from tts_kernels.cli import demo_runs
from tts_kernels.report import accuracy


def main(limit: int = 300, seed: int = 0) -> None:
    rows: list[dict[str, object]] = []
    for name, results, stats in demo_runs(limit, seed):
        row: dict[str, object] = {"search": name, "problems": len(results), "accuracy": accuracy(results)}
        for model, counters in (("policy", stats.policy), ("prm", stats.scorer)):
            row |= {f"{model}_{key}": value for key, value in counters.items()}
        rows.append(row | {"seconds": round(stats.seconds, 2)})
    print(write_rows("demo", rows))


if __name__ == "__main__":
    typer.run(main)
