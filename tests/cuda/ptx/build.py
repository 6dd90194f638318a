"""What nvcc and g++ make of the sources here, kept under build/ptx/ by the contents they were made from."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .layout import HERE

ROOT = HERE.parents[2]
CACHE = ROOT / "build" / "ptx"
# No contraction, and integers that wrap: the arithmetic is PTX's and not C++'s.
_GXX = ["g++", "-std=c++17", "-O3", "-march=native", "-fwrapv", "-ffp-contract=off", "-fPIC", "-shared", "-Wall"]
_NVCC = ["nvcc", "-ptx", "-lineinfo", "-std=c++17", "-O3"]
_CSRC = f"-I{ROOT / 'csrc'}"


def compile_ptx(source: Path, arch: int = 80, options: Sequence[str] = ()) -> str:
    """The PTX of a .cu file; includes are searched for in directories of the options first, then in csrc/."""
    folders = [*(Path(option[2:]) for option in options if option.startswith("-I")), ROOT / "csrc"]
    command = [*_NVCC, f"-arch=compute_{arch}", *options, _CSRC, str(source)]
    return _made(command, with_includes(source, folders), f"{source.stem}.ptx").read_text()


def with_includes(source: Path, folders: Sequence[Path] = (ROOT / "csrc",)) -> list[Path]:
    """The source and the headers that it includes, directly or not, each as first found in the folders."""
    found = [source]
    for path in found:
        for name in re.findall(r'^#include "(.+)"', path.read_text(), re.M):
            header = next((folder / name for folder in folders if (folder / name).exists()), None)
            if header and header not in found:
                found.append(header)
    return found


@functools.cache
def executor() -> ctypes.CDLL:
    sources = sorted(HERE.glob("*.cpp"))
    command = [*_GXX, *map(str, sources)]
    return ctypes.CDLL(str(_made(command, [*sources, *sorted(HERE.glob("*.h"))], "executor.so")))


def _made(command: list[str], inputs: list[Path], name: str) -> Path:
    digest = hashlib.sha256(" ".join(command).encode())
    for path in inputs:
        digest.update(path.read_bytes())
    made = CACHE / digest.hexdigest()[:16] / name
    if not made.exists():
        compile_to(command, made)
    return made


def compile_to(command: list[str], output: Path) -> None:
    """Run the command with -o output; several processes may do so at once."""
    output.parent.mkdir(parents=True, exist_ok=True)
    partial = output.with_name(f"{output.name}.{os.getpid()}")
    done = subprocess.run([*command, "-o", str(partial)], capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr[:3000]}")
    partial.replace(output)
