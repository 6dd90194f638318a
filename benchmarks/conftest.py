"""Benchmarks of single ops: ``pytest benchmarks/bench_*.py --threads 1 --threads 2 --csv``; ``--isa``: another build of
the kernels than the best one. pytest-benchmark's table has our kernels; who else was timed with them stands below it,
with the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from common import update_rows
from op_rows import ISAS, KEYS, NAME, OURS, Case, measured
from paired import SHORTEST, Run, seconds_of

from tts_kernels import _ext

COLUMNS = ("op", "shape", "dtype", "threads", "ms", "torch", "torch_ratio", "reference_ratio")
RATES = ("pct_of_fma", "pct_of_bandwidth", "slower_than")
ROWS = pytest.StashKey[list[dict[str, object]]]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--threads", action="append", type=int, help="1 if not given; may be given twice")
    parser.addoption("--isa", choices=ISAS, help="build of the kernels; the best one if not given")
    parser.addoption("--csv", action="store_true", help=f"write results/{NAME}.csv, rows of these cases anew")


def pytest_configure(config: pytest.Config) -> None:
    config.stash[ROWS] = []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "threads" in metafunc.fixturenames:
        counts = metafunc.config.getoption("threads") or [1]
        metafunc.parametrize("threads", counts, indirect=True, ids=lambda count: f"threads {count}")


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.fixture
def isa(request: pytest.FixtureRequest) -> Iterator[None]:
    reason = _ext.why_not_native()
    if reason is not None:
        pytest.skip(reason)
    wanted, before = request.config.getoption("isa"), torch.ops.tts_kernels.cpu_isa()
    if wanted and not torch.ops.tts_kernels.set_cpu_isa(ISAS.index(wanted)):
        pytest.skip(f"this processor has no {wanted}")
    yield
    torch.ops.tts_kernels.set_cpu_isa(before)


@pytest.fixture
def measure(request: pytest.FixtureRequest, benchmark: Any, threads: int, isa: None) -> Callable[..., None]:
    """measure(case, ways): times, reports and keeps the row."""

    def run(case: Case, ways: dict[str, Run]) -> None:
        row = measured(case, ways)
        request.config.stash[ROWS].append(row)
        if request.config.getoption("csv"):
            update_rows(NAME, [row], KEYS)
        benchmark.group = case.op
        benchmark.extra_info.update(row)
        calls = max(1, int(SHORTEST / seconds_of(ways[OURS])))
        benchmark.pedantic(ways[OURS], rounds=5, iterations=calls, warmup_rounds=1)

    return run


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    rows = config.stash[ROWS]
    if not rows:
        return
    names = (*COLUMNS, *RATES)
    lines = [names, *(tuple(str(row[name]) for name in names) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        terminalreporter.write_line("  ".join(map(str.ljust, line, widths)).rstrip())
    slower = sum(bool(row["slower_than"]) for row in rows)
    terminalreporter.write_line(f"{len(rows) - slower} of {len(rows)} cases: no other way is faster than our kernel")
