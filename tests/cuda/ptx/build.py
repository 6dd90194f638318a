"""What nvcc and g++ make of the sources here, kept under build/ptx/ by the contents they were made from."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .layout import HERE

ROOT = HERE.parents[2]
CACHE = ROOT / "build" / "ptx"
# No contraction, and integers that wrap: the arithmetic is PTX's and not C++'s.
_GXX = ["g++", "-std=c++17", "-O3", "-march=native", "-fwrapv", "-ffp-contract=off", "-fPIC", "-shared", "-Wall"]
_NVCC = ["nvcc", "-ptx", "-lineinfo", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}"]


def compile_ptx(source: Path, arch: int = 80, options: Sequence[str] = ()) -> str:
    """The PTX of a .cu file; its paths are resolved against csrc/."""
    headers = sorted((ROOT / "csrc").rglob("*.h")) + sorted(source.parent.glob("*.h"))
    command = [*_NVCC, f"-arch=compute_{arch}", *options, str(source)]
    return _made(command, [source, *headers], f"{source.stem}.ptx").read_text()


@functools.cache
def executor() -> ctypes.CDLL:
    sources = sorted(HERE.glob("*.cpp"))
    command = [*_GXX, *map(str, sources)]
    return ctypes.CDLL(str(_made(command, [*sources, *sorted(HERE.glob("*.h"))], "executor.so")))


def _made(command: list[str], inputs: list[Path], name: str) -> Path:
    digest = hashlib.sha256(" ".join(command).encode())
    for path in dict.fromkeys(inputs):
        digest.update(path.read_bytes())
    made = CACHE / digest.hexdigest()[:16] / name
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        partial = made.with_suffix(".partial")
        done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        partial.rename(made)
    return made
