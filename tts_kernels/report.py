"""Tables for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from rich.table import Table

from tts_kernels.backends import BACKENDS, OPS, why_not
from tts_kernels.search import RunStats, SearchResult


def backend_status() -> dict[str, dict[str, dict[str, str | None]]]:
    """op -> device -> backend -> the reason why it cannot run there, None when it can."""
    devices = ("cpu", "cuda")
    return {op: {device: {b: why_not(op, b, device) for b in BACKENDS} for device in devices} for op in OPS}


def info_table(status: dict[str, dict[str, dict[str, str | None]]]) -> Table:
    table = Table(title=f"torch {torch.__version__}")
    for column in ("op", "device", *BACKENDS):
        table.add_column(column)
    for op, devices in status.items():
        for device, backends in devices.items():
            table.add_row(op, device, *["[green]yes[/]" if reason is None else reason for reason in backends.values()])
    return table


def accuracy(results: Sequence[SearchResult]) -> float | None:
    """Share of right answers among the problems that came with one; None when none did."""
    judged = [result.correct for result in results if result.problem.answer is not None]
    return sum(map(bool, judged)) / len(judged) if judged else None


def summary_row(results: Sequence[SearchResult], stats: RunStats) -> dict[str, str]:
    """The figures of one run, formatted."""
    share = accuracy(results)
    policy, scorer = stats.policy, stats.scorer

    def moved(suffix: str) -> int:
        return policy.get(f"bytes{suffix}", 0) + scorer.get(f"bytes{suffix}", 0)

    def against(suffix: str) -> str:
        return f"{_bytes(moved(suffix))} ({moved(suffix) / moved(''):.2g}x)" if moved("") else "-"

    return {
        "accuracy": "-" if share is None else f"{share:.1%}",
        "policy calls": f"{policy.get('calls', 0):,}",
        "policy tokens": f"{policy.get('tokens', 0):,}",
        "  in vain": f"{sum(result.stats.wasted_tokens for result in results):,}",
        "PRM tokens": f"{scorer.get('tokens', 0):,}",
        "  paths read whole": f"{scorer.get('whole_path_tokens', 0):,}",
        "  read again": f"{scorer.get('recomputed_tokens', 0):,}",
        "policy FLOPs": f"{policy.get('flops', 0):.2e}",
        "PRM FLOPs": f"{scorer.get('flops', 0):.2e}",
        "attention bytes": _bytes(moved("")),
        "  least possible": against("_floor"),
        "  level by level (cascade)": against("_cascade"),
        "  every path by itself": against("_unshared"),
        "  concatenated and expanded": against("_hugging_face"),
        "peak pages": f"{policy.get('peak_pages', 0):,} + {scorer.get('peak_pages', 0):,}",
        "PRM pages given up": f"{scorer.get('spilled_pages', 0):,}",
        "seconds": f"{stats.seconds:.1f}",
    }


def summary_table(rows: dict[str, dict[str, Any]]) -> Table:
    """One column of figures per run, named by the keys of ``rows``."""
    table = Table()
    table.add_column("")
    for name in rows:
        table.add_column(name, justify="right")
    for figure in next(iter(rows.values())):
        table.add_row(figure, *[str(row[figure]) for row in rows.values()])
    return table


def _bytes(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} TB"
