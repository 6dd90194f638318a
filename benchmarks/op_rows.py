"""An op against torch's ways of doing the same: timed in turns with yardsticks, and made a row of ``results/ops.csv``.

Columns: ``torch`` is the fastest of torch's ways, ``torch_ms`` its time, ``torch_ratio`` that time over ours, each pair
of one round; ``reference_ratio`` likewise. ``others``: the ways of torch that are slower. ``slower_than``: whatever
beats our kernel. ``pct_of_fma`` is of float32 multiply-adds from registers, whatever the dtype, and may pass 100 where
the processor multiplies bfloat16 faster; ``pct_of_bandwidth`` is of reading 512 MB, and may pass 100 where what is
moved stays in caches. Both peaks are measured in the same rounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from paired import Run, Times, paired
from torch import Tensor
from yardsticks import Yardstick, yardsticks

NAME = "ops"
KEYS = ("op", "shape", "dtype", "threads", "isa")
ISAS = ("base", "avx2", "avx512", "avx512_bf16", "amx")
OURS, REFERENCE = "native", "reference"


@dataclass(frozen=True)
class Case:
    """``flops``, ``nbytes``: of one call, least possible; 0: not worth a column. ``calls``: of the op, in one run."""

    op: str
    shape: str
    dtype: torch.dtype
    flops: float = 0.0
    nbytes: float = 0.0
    calls: int = 1


def expect_as_exact(got: Tensor, oracle: Tensor, same: Tensor) -> None:
    """Raises AssertionError when ``got`` is off from the oracle by more than twice what the reference, ``same``, is.

    By the root of the mean square: in millions of values of peaky inputs, luck decides which error is the largest.
    """
    ours, allowed = (float((x.double() - oracle).pow(2).mean().sqrt()) for x in (got, same))
    if not ours <= 2 * allowed:
        raise AssertionError(f"off by {ours:.3e}, allowed {2 * allowed:.3e} (twice the reference's own error)")


def measured(case: Case, ways: dict[str, Run]) -> dict[str, object]:
    """The row of a case. ``ways``: ``native``, perhaps ``reference``, and torch's own by their names."""
    sticks = yardsticks(torch.get_num_threads()) if case.flops or case.nbytes else {}
    times = paired(ways | {f"peak {name}": stick.run for name, stick in sticks.items()})
    for name in ways:
        times.seconds[name] = [spent / case.calls for spent in times.seconds[name]]
    ratios = {name: times.ratio(name, OURS) for name in ways if name != OURS}
    by_torch = sorted((name for name in ratios if name != REFERENCE), key=lambda name: ratios[name])
    best = by_torch[0] if by_torch else ""
    return {
        "op": case.op,
        "shape": case.shape,
        "dtype": str(case.dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "isa": ISAS[torch.ops.tts_kernels.cpu_isa()],
        "ms": milliseconds(times, OURS),
        "ms_p20": rounded(times.quantile(OURS, 0.2) * 1e3),
        "ms_p80": rounded(times.quantile(OURS, 0.8) * 1e3),
        "torch": best,
        "torch_ms": milliseconds(times, best),
        "torch_ratio": rounded(ratios.get(best)),
        "others": "; ".join(f"{name} {milliseconds(times, name)} ms" for name in by_torch[1:]),
        "reference_ms": milliseconds(times, REFERENCE),
        "reference_ratio": rounded(ratios.get(REFERENCE)),
        "slower_than": ", ".join(name for name, ratio in ratios.items() if ratio < 1),
        **rates(case, times, sticks),
    }


def rates(case: Case, times: Times, sticks: dict[str, Yardstick]) -> dict[str, object]:
    """What a case does in a second, and the part of what the machine can."""

    def speed(name: str) -> float | None:
        return sticks[name].work / times.median(f"peak {name}") / 1e9 if name in sticks else None

    def percent(name: str, work: float) -> float | None:
        stick = sticks.get(name)
        return 100 * work / stick.work * times.ratio(f"peak {name}", OURS) if stick and work else None

    ours = times.median(OURS) * 1e9
    return {
        "gflops": rounded(case.flops / ours or None),
        "pct_of_fma": rounded(percent("fma", case.flops)),
        "gbs": rounded(case.nbytes / ours or None),
        "pct_of_bandwidth": rounded(percent("read", case.nbytes)),
        "fma_gflops": rounded(speed("fma")),
        "bf16_gflops": rounded(speed("bf16")),
        "bandwidth_gbs": rounded(speed("read")),
    }


def milliseconds(times: Times, name: str) -> float | str:
    return rounded(times.median(name) * 1e3) if name in times.seconds else ""


def rounded(value: float | None) -> float | str:
    """Four digits, or nothing."""
    return "" if value is None else float(f"{value:.4g}")
