"""``make gpu``: build, tests and benchmarks on a machine with a GPU, in one go; ``--dry`` walks what needs none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

ROOT = Path(__file__).parent.parent
OPS = ["tests/ops", "tests/test_invariance.py"]
CUDA = "tests/gpu"


# Of the machine's own GPUs; without one the build is tried on a few kernels by a test.
BUILD = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]


def steps(dry: bool) -> list[tuple[str, list[str], dict[str, str]]]:
    """Name, command and environment of each step."""
    pytest = [sys.executable, "-m", "pytest", "-q"]
    interpreter = {"TRITON_INTERPRET": "1"} if dry else {}
    listed = [
        ("build", BUILD, {"TTS_CUDA_ARCHS": "" if dry else "native"}),
        (
            "ops against the reference",
            [*pytest, *OPS, *(["-k", "(triton or native) and test_one_row"] if dry else [])],
            interpreter,
        ),
        ("graphs and memory", [*pytest, CUDA, *(["--collect-only"] if dry else [])], {}),
        ("benchmarks", [sys.executable, "benchmarks/bench_gpu.py", "--dry" if dry else "--csv"], interpreter),
        ("traffic", [sys.executable, "benchmarks/bench_traffic.py"], {}),
    ]
    if dry:
        on_host = ["tests/ops/test_tree_attention.py", "-k", "test_sinks and bfloat16", "--cuda-sources", "late,ptx"]
        few = ["--cuda-overlay", "tests/cuda/small"]
        listed.insert(1, ("CUDA kernels compile, link and load", [*pytest, "tests/cuda/test_build.py"], {}))
        listed.insert(2, ("CUDA kernels on the host", [*pytest, *on_host, *few], {}))
    sanitizer = shutil.which("compute-sanitizer")
    if sanitizer and not dry:
        memcheck = [sanitizer, "--error-exitcode=1", *pytest, "tests/ops/test_tree_attention.py", "-k"]
        listed.insert(3, ("compute-sanitizer", [*memcheck, "(triton or native) and heads"], {}))
    return listed


def main(dry: Annotated[bool, typer.Option(help="only what needs no GPU")] = False) -> None:
    failed = []
    for name, command, environment in steps(dry):
        print(f"== {name}: {' '.join(command)}", flush=True)
        begin = time.perf_counter()
        # The checkout need not be installed.
        variables = os.environ | {"PYTHONPATH": str(ROOT)} | environment
        code = subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode
        print(
            f"== {name}: {'ok' if code == 0 else f'FAILED ({code})'} in {time.perf_counter() - begin:.0f} s", flush=True
        )
        failed += [name] if code else []
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    typer.run(main)
