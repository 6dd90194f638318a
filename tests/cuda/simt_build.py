"""Builds the CUDA sources for the host: one shared library with the SIMT runtime of tests/cuda/simt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ptx.build import compile_to, with_includes

ROOT = Path(__file__).resolve().parents[2]
SIMT = ROOT / "tests/cuda/simt"
INCLUDE_DIRS = [SIMT, ROOT / "csrc"]
BUILD = ROOT / "build/simt"

COMMON = ["-std=c++17", "-fPIC", "-g1", "-Wall"]
RUNTIME = ["-O2"]
# The compiler reports each access as for ThreadSanitizer; the runtime takes the reports. What follows keeps a 16-byte
# access whole and one place of the source at one address. nvcc does not assume that pointers of two types differ.
KERNEL = [
    *("-O1", "-x", "c++", "-Wno-unknown-pragmas", "-fno-strict-aliasing", "-fno-tree-sra", "-fno-ipa-sra"),
    *("-fno-thread-jumps", "-fno-optimize-sibling-calls"),
]
OBSERVED = [
    *("-fsanitize=thread", "--param", "tsan-instrument-func-entry-exit=0", "-fno-sanitize-recover=all"),
    "-fsanitize=signed-integer-overflow,shift,integer-divide-by-zero,bounds,float-cast-overflow",
]


def add_overlay(folder: Path) -> None:
    """From now on, sources and headers in ``folder``/cuda take the place of those in csrc/cuda of the same name."""
    INCLUDE_DIRS.insert(0, folder)


def kernel_sources() -> list[Path]:
    """All CUDA sources but the one that asks the CUDA runtime about the device."""
    names = {path.name for path in (ROOT / "csrc/cuda").glob("*.cu")} - {"device.cu"}
    folders = [folder / "cuda" for folder in INCLUDE_DIRS]
    return [next(folder / name for folder in folders if (folder / name).exists()) for name in sorted(names)]


def build(sources: Iterable[Path] | None = None, *, ops: bool = True, sanitize: str = "", jobs: int = 2) -> Path:
    """Compile what changed and link it; return the library.

    sources: CUDA sources, all by default. ops: with the torch ops, registered for CPU tensors. sanitize: names for
    -fsanitize; the library then has no checks of its own and its process must preload the sanitizers' libraries.
    """
    kernels = kernel_sources() if sources is None else list(sources)
    plan = {source: [*COMMON, *RUNTIME] for source in sorted(SIMT.glob("*.cpp"))}
    plan |= {source: [*COMMON, *KERNEL, *([] if sanitize else OBSERVED)] for source in kernels}
    if sanitize:
        extra = [f"-fsanitize={sanitize}", "-fno-sanitize=vptr", "-fno-omit-frame-pointer"]
        plan = {source: [*flags, *extra] for source, flags in plan.items()}
    link = [f"-fsanitize={sanitize}"] if sanitize else []
    if ops:
        flags, libraries = _torch_flags()
        plan[ROOT / "csrc/bindings_cuda.cpp"] = [*COMMON, "-O1", *flags]
        link += libraries
    with ThreadPoolExecutor(jobs) as pool:
        objects = list(pool.map(_compile, plan, plan.values()))
    library = BUILD / _digest(*map(str, objects), *link) / "libtts_simt.so"
    if not library.exists():
        compile_to(["g++", "-shared", "-Wl,-Bsymbolic-functions", *map(str, objects), *link], library)
    return library


def _torch_flags() -> tuple[list[str], list[str]]:
    import torch

    folder = Path(torch.__file__).parent
    flags = [f"-isystem{folder}/include", "-DTORCH_TARGET_VERSION=0x020a000000000000", "-DTTS_CUDA_KEY=CPU"]
    return flags, [f"-L{folder}/lib", "-ltorch_cpu", "-lc10"]


def _compile(source: Path, flags: list[str]) -> Path:
    texts = {path: path.read_text() for path in sorted(with_includes(source, INCLUDE_DIRS))}
    output = BUILD / "objects" / f"{source.stem}-{_digest(str(source), *flags, *texts.values())}.o"
    if not output.exists():
        compile_to(["g++", *(f"-I{folder}" for folder in INCLUDE_DIRS), *flags, "-c", str(source)], output)
    return output


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
