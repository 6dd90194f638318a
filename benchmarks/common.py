"""What every benchmark shares: the machine in words, and rows appended to a CSV."""

from __future__ import annotations

import csv
import datetime
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

RESULTS = Path(__file__).parent / "results"


def cpu_name() -> str:
    """The processor as the system names it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def machine() -> dict[str, str]:
    """Columns that say where and with what a row was measured."""
    commit = subprocess.run(
        ["git", "-C", str(RESULTS.parent), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "device": cpu_name(),
        "threads": str(torch.get_num_threads()),
        "torch": torch.__version__,
        "commit": commit.stdout.strip(),
        "date": datetime.date.today().isoformat(),
    }


def write_rows(name: str, rows: list[dict[str, object]]) -> Path:
    """Write rows, all with the same columns, to ``results/NAME.csv``, the machine's columns behind them."""
    return _write(name, [row | machine() for row in rows])


def update_rows(name: str, rows: list[dict[str, object]], keys: Sequence[str]) -> Path:
    """Write rows to ``results/NAME.csv`` in place of those that say the same under ``keys``; the others stay.

    Rows of a file with other columns are dropped. A column that is also one of the machine's keeps the row's value.
    """
    full = [row | machine() | row for row in rows]
    path = RESULTS / f"{name}.csv"
    kept: list[dict[str, object]] = []
    if path.exists():
        new = {tuple(str(row[key]) for key in keys) for row in full}
        with path.open(newline="") as stream:
            old = [row for row in csv.DictReader(stream) if row.keys() == full[0].keys()]
        kept = [dict(row) for row in old if tuple(row[key] for key in keys) not in new]
    return _write(name, kept + full)


def _write(name: str, full: list[dict[str, object]]) -> Path:
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, full[0].keys())
        writer.writeheader()
        writer.writerows(full)
    return path
