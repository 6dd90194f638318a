"""Runs the CUDA kernels on the host, checked: `with Execution() as run: op(...)`, then look at run.launches.

The ops of tts_kernels get their CUDA kernels on CPU tensors for the whole process once load() was called.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import ptx
import torch
from simt_build import INCLUDE_DIRS, ROOT, SIMT, build, kernel_sources
from torch.utils._python_dispatch import TorchDispatchMode

from tts_kernels import _ext

__all__ = ["Allocation", "Counts", "Execution", "KernelError", "Shim", "build", "load"]

MAX_ALLOCATIONS = 64
MODES = ("late", "late80", "early", "ptx", "ptx-early")


class KernelError(RuntimeError):
    """A kernel did what it must not; the message says which thread of which block, and what."""


class Allocation(ctypes.Structure):
    _fields_ = (
        ("name", ctypes.c_char_p),
        ("begin", ctypes.c_uint64),
        ("end", ctypes.c_uint64),
        ("writable", ctypes.c_uint64),
    )


class Record(ctypes.Structure):
    """A C struct of counters."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)}' for name, _ in self._fields_)})"


class Traffic(Record):
    """Of one tensor in one launch, see simt/simt.h."""

    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            *("load_bytes", "store_bytes", "load_requests", "store_requests", "load_sectors", "store_sectors"),
            *("wide_requests", "atomics"),
        )
    )


class SharedTraffic(Record):
    """Of shared memory in one launch, see simt/simt.h."""

    _fields_ = tuple(
        (name, ctypes.c_uint64) for name in ("load_bytes", "store_bytes", "requests", "wavefronts", "ideal")
    )

    @property
    def conflicts(self) -> int:
        return self.wavefronts - self.ideal


class _Launch(ctypes.Structure):
    _fields_ = (
        ("kernel", ctypes.c_char_p),
        ("symbol", ctypes.c_char_p),
        ("grid", ctypes.c_uint64 * 3),
        ("threads", ctypes.c_uint64),
        ("shared_bytes", ctypes.c_uint64),
        ("races", ctypes.c_uint64),
        ("shared", SharedTraffic * 3),
        ("traffic", Traffic * MAX_ALLOCATIONS),
    )


@dataclass(frozen=True)
class Counts:
    """One launch. The counters are zero where nobody counted."""

    kernel: str
    symbol: str
    grid: tuple[int, int, int]
    threads: int
    shared_bytes: int
    races: int
    # By the way of the access: plain, copied (cp.async), matrix (ldmatrix).
    shared: dict[str, SharedTraffic]
    tensors: dict[str, Traffic]


class Shim:
    """The C interface of a library that build() made."""

    def __init__(self, library: Path) -> None:
        self.c = ctypes.CDLL(str(library))
        self.c.simt_error.restype = ctypes.c_char_p
        self.c.simt_launch.restype = ctypes.POINTER(_Launch)

    def configure(self, mode: str, seed: int, count: bool, capability: int) -> None:
        self.c.simt_set_mode(int(mode.endswith("early")), ctypes.c_uint(seed))
        self.c.simt_count(int(count))
        self.c.simt_set_capability(capability)

    @contextmanager
    def executed_by(self, callback: Any) -> Iterator[None]:
        """Launches go to this C function instead of the fibers."""
        self.c.simt_set_executor(callback)
        try:
            yield
        finally:
            self.c.simt_set_executor(None)

    def allow(self, allocations: Sequence[Allocation] | None) -> None:
        """Name all the memory of the next launches; None: any."""
        table = None if allocations is None else (Allocation * len(allocations))(*allocations)
        self.c.simt_allocations(table, 0 if allocations is None else len(allocations))

    def error(self) -> str:
        return self.c.simt_error().decode()

    def launches(self, names: Sequence[str]) -> list[Counts]:
        """Those since allow(), whose allocations have these names."""
        return [self._counts(self.c.simt_launch(i).contents, names) for i in range(self.c.simt_num_launches())]

    def _counts(self, raw: _Launch, names: Sequence[str]) -> Counts:
        return Counts(
            raw.kernel.decode(),
            raw.symbol.decode(),
            tuple(raw.grid),
            raw.threads,
            raw.shared_bytes,
            raw.races,
            {name: _copy(raw.shared[i]) for i, name in enumerate(("plain", "copied", "matrix"))},
            {name: _copy(raw.traffic[i]) for i, name in enumerate(names)},
        )


def _copy(record: Any) -> Any:
    return type(record).from_buffer_copy(record)


@cache
def load() -> Shim:
    """Replace the CPU kernels of the ops by the CUDA kernels on the host, once in a process."""
    reason = _ext.why_not_native()
    if reason is not None:
        raise RuntimeError(reason)
    path = build()
    with _quiet():
        torch.ops.load_library(path)
    _ext.runs_cuda_kernels = lambda device: True
    return Shim(path)


@cache
def modules_of(op: str) -> tuple[ptx.Module, ...]:
    """What nvcc makes of the sources of an op."""
    overlays = [f"-I{folder}" for folder in INCLUDE_DIRS if folder not in (SIMT, ROOT / "csrc")]
    sources = [path for path in kernel_sources() if path.stem.startswith(op)]
    return tuple(ptx.Module(ptx.compile_ptx(path, options=overlays)) for path in sources)


@contextmanager
def _quiet() -> Iterator[None]:
    """No standard error: torch warns there, from C++, that kernels are replaced."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def allocations_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> list[Allocation]:
    """The memory of the tensors among the arguments of an op, by the names of its schema."""
    found = []
    for i, argument in enumerate(func._schema.arguments):
        value = args[i] if i < len(args) else kwargs.get(argument.name)
        if isinstance(value, torch.Tensor):
            writable = argument.alias_info is not None and argument.alias_info.is_write
            begin = value.data_ptr()
            found.append(Allocation(argument.name.encode(), begin, begin + _extent(value), writable))
    return found


def _extent(tensor: torch.Tensor) -> int:
    """Bytes from the first to past the last element."""
    if tensor.numel() == 0:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return (last + 1) * tensor.element_size()


class Execution(TorchDispatchMode):
    """While entered, each op of tts_kernels may touch its own tensors only, and a broken rule raises KernelError.

    mode: when asynchronous copies and products land, "late" or "early"; "late80" is "late" with capability 80; "ptx"
    and "ptx-early" run what nvcc emitted instead of the source, never products of warpgroups. seed: 0 runs threads in
    order, else in a random one. count: fill in the counters of launches.
    interpreted: by kernel symbol, what the interpreter of the PTX counted.
    """

    def __init__(self, mode: str = "late", seed: int = 0, count: bool = False, capability: int = 90) -> None:
        super().__init__()
        if mode not in MODES:
            raise ValueError(f"Execution: mode must be one of {MODES}, got {mode!r}")
        if mode == "late80":
            mode, capability = "late", 80
        self.options = (mode, seed, count, capability)
        self.launches: list[Counts] = []
        self.interpreted: dict[str, ptx.Counts] = {}

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Else torch.compile is imported, which takes seconds.
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace != "tts_kernels":
            return func(*args, **kwargs)
        shim = load()
        allocations = allocations_of(func, args, kwargs)
        shim.configure(*self.options)
        shim.allow(allocations)
        try:
            if self.options[0].startswith("ptx"):
                return self._interpret(shim, allocations, func, args, kwargs)
            return func(*args, **kwargs)
        except RuntimeError:
            if not shim.error():
                raise
            raise KernelError(shim.error()) from None
        finally:
            self.launches += shim.launches([a.name.decode() for a in allocations])
            shim.allow(None)

    def _interpret(self, shim: Shim, allocations: list[Allocation], func: Any, args: Any, kwargs: Any) -> Any:
        mode, seed = self.options[:2]
        known = [ptx.Allocation(a.name.decode(), a.begin, a.end) for a in allocations]
        runner = ptx.executor_callback(
            modules_of(func._schema.name.removeprefix("tts_kernels::")),
            lambda: known,
            mode="early" if mode.endswith("early") else "late",
            seed=seed,
        )
        try:
            with shim.executed_by(runner.callback):
                return func(*args, **kwargs)
        except RuntimeError:
            if runner.error is None:
                raise
            raise KernelError(str(runner.error)) from runner.error
        finally:
            for symbol, counts in runner.counts.items():
                self.interpreted.setdefault(symbol, ptx.Counts()).add(counts)
