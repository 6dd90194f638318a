"""What the machine can do at most, timed beside what it does: ``yardsticks.cpp``, or torch where g++ is missing."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

SOURCE = Path(__file__).parent / "yardsticks.cpp"
FLAGS = ("-O3", "-march=native", "-shared", "-fPIC", "-pthread")
# Far more than caches hold, so that what ran before does not matter, nor what runs next profit from it.
MEMORY_BYTES = 512 << 20
# Some milliseconds each.
FLOAT_STEPS, BFLOAT_STEPS = 1 << 20, 1 << 15
SQUARE = 768


@dataclass(frozen=True)
class Yardstick:
    """``run`` does ``work``: operations, or bytes read."""

    run: Callable[[], object]
    work: float


@cache
def _library() -> ctypes.CDLL | None:
    compiler = shutil.which("g++")
    if compiler is None:
        return None
    with TemporaryDirectory() as folder:
        target = Path(folder) / "yardsticks.so"
        subprocess.run([compiler, *FLAGS, "-o", str(target), str(SOURCE)], check=True)
        library = ctypes.CDLL(str(target))
    for function in (library.float_peak, library.bfloat_peak, library.read_all):
        function.restype = ctypes.c_double
    return library


@cache
def _memory() -> torch.Tensor:
    """Written once: pages that are not are all the same one."""
    return torch.ones(MEMORY_BYTES // 4)


def yardsticks(threads: int) -> dict[str, Yardstick]:
    """``fma``: multiply-adds of float32 registers; ``bf16``: of bfloat16, where the processor has them; ``read``: a sum
    over 512 MB.
    """
    library, memory = _library(), _memory()
    if library is None:
        square = torch.ones(SQUARE, SQUARE)
        multiply = Yardstick(lambda: torch.mm(square, square), 2.0 * SQUARE**3)
        return {"fma": multiply, "read": Yardstick(memory.sum, float(memory.nbytes))}
    calls = {
        "fma": (library.float_peak, (ctypes.c_int64(FLOAT_STEPS), threads)),
        "bf16": (library.bfloat_peak, (ctypes.c_int64(BFLOAT_STEPS), threads)),
        "read": (library.read_all, (ctypes.c_void_p(memory.data_ptr()), ctypes.c_int64(memory.nbytes), threads)),
    }
    # The first call tells the work.
    found = {name: Yardstick(partial(f, *args), f(*args)) for name, (f, args) in calls.items()}
    return {name: each for name, each in found.items() if each.work}
