"""A module of PTX, and its launches on the host's memory."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .build import executor
from .counts import NUMBERS, Counts
from .decode import Kernel, decode
from .layout import PtxError, struct
from .operands import SHARED_BASE
from .parse import Array, parse_arrays, parse_entries

_LAUNCH = struct("Launch", "machine.h")
_LINE_COUNTS = struct("LineCounts", "machine.h")
_TRAFFIC = struct("Traffic", "machine.h")
_ALLOCATION = struct("Allocation", "machine.h")

# When a cp.async lands: at the wait that covers it, or at once.
Mode = Literal["late", "early"]


@dataclass(frozen=True)
class Allocation:
    """Memory that kernels may touch: host addresses [begin, end)."""

    name: str
    begin: int
    end: int
    writable: bool = True


class Module:
    """The kernels of a text that nvcc -ptx wrote, decoded when first launched."""

    def __init__(self, text: str) -> None:
        self._entries = parse_entries(text)
        self._kernels: dict[str, Kernel] = {}
        self._arrays: list[Allocation] = []
        # Backs the arrays with initial values.
        self._memory: list[ctypes.Array] = []
        self._symbols: dict[str, int] = {}
        for array in parse_arrays(text):
            if array.space != "shared":
                self._place(array)
            elif array.size:
                raise PtxError(f"static shared memory: {array.name}")
            else:
                self._symbols[array.name] = SHARED_BASE

    def _place(self, array: Array) -> None:
        memory = ctypes.create_string_buffer(array.size + array.align)
        begin = ctypes.addressof(memory)
        begin += -begin % array.align
        ctypes.memmove(begin, array.data, array.size)
        self._memory.append(memory)
        self._symbols[array.name] = begin
        self._arrays.append(Allocation(array.name, begin, begin + array.size))

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._entries

    @property
    def symbols(self) -> list[str]:
        return list(self._entries)

    def kernel(self, symbol: str) -> Kernel:
        """The decoded kernel; PtxError names an instruction that is not known."""
        if symbol not in self._kernels:
            kernel = decode(self._entries[symbol], self._symbols)
            unknown = executor().first_unknown(
                ctypes.c_void_p(kernel.code.ctypes.data), ctypes.c_int64(len(kernel.code))
            )
            if unknown >= 0:
                raise PtxError(f"{symbol}: unknown instruction: {kernel.texts[unknown]}, at {kernel.sources[unknown]}")
            self._kernels[symbol] = kernel
        return self._kernels[symbol]

    def launch(
        self,
        symbol: str,
        grid: Sequence[int],
        threads: int,
        shared_bytes: int,
        params: bytes,
        allocations: Sequence[Allocation],
        *,
        mode: Mode = "late",
        seed: int = 0,
        max_executed: int = 2_000_000_000,
    ) -> Counts:
        """Runs every block. seed: 0 runs blocks and warps in order, another number shuffles them.

        Raises PtxError at the first thing that a kernel may not do, with block, thread and source line.
        """
        kernel = self.kernel(symbol)
        if len(params) != kernel.params_bytes:
            raise PtxError(f"{symbol}: {len(params)} bytes of parameters, the kernel takes {kernel.params_bytes}")
        if not 1 <= threads <= 1024 or min(grid) < 1:
            raise PtxError(f"{symbol}: cannot launch {threads} threads in a grid of {tuple(grid)}")
        everything = [*allocations, *self._arrays]
        launch = _Launch(kernel, params, everything)
        launch.set(grid=(*grid, 1, 1)[:3], threads=threads, shared_bytes=shared_bytes)
        launch.set(late=mode == "late", seed=seed, max_executed=max_executed)
        if executor().run_launch(ctypes.c_void_p(launch.fields.ctypes.data)):
            raise PtxError(f"{symbol}: {launch.explanation()}")
        return _sum(kernel, launch.counts, everything, launch.traffic)


class _Launch:
    """The executor's struct of a launch, and the memory that it points to."""

    def __init__(self, kernel: Kernel, params: bytes, allocations: Sequence[Allocation]) -> None:
        self.fields = np.zeros(1, _LAUNCH)
        self.counts = np.zeros(len(kernel.code), _LINE_COUNTS)
        self.traffic = np.zeros(len(allocations) + 1, _TRAFFIC)
        self._kernel = kernel
        self._message = ctypes.create_string_buffer(1024)
        self._params = _aligned_copy(params)
        self._names = [ctypes.create_string_buffer(one.name.encode()) for one in allocations]
        rows = [(ctypes.addressof(name), one.begin, one.end, one.writable)
                for name, one in zip(self._names, allocations, strict=True)]  # fmt: skip
        self._allocations = np.array([*rows, (0, 0, 0, 0)], _ALLOCATION)
        arrays = {"code": kernel.code, "targets": kernel.targets, "constants": kernel.constants, "counts": self.counts,
                  "params": self._params, "allocations": self._allocations, "traffic": self.traffic}  # fmt: skip
        self.set(**{name: array.ctypes.data for name, array in arrays.items()})
        self.set(message=ctypes.addressof(self._message), message_bytes=len(self._message), other_at=-1)
        self.set(num_instructions=len(kernel.code), num_allocations=len(allocations), params_bytes=len(params))
        self.set(register_bytes=kernel.register_bytes, local_bytes=kernel.local_bytes)

    def set(self, **values: Any) -> None:
        for name, value in values.items():
            self.fields[name] = value

    def explanation(self) -> str:
        """The fault's message, with the line of PTX and of CUDA."""
        at, other = int(self.fields["fault_at"][0]), int(self.fields["other_at"][0])
        sources, texts = self._kernel.sources, self._kernel.texts
        text = f"{self._message.value.decode()}, at {sources[at]}: {texts[at]}"
        return text if other < 0 else f"{text}; the other at {sources[other]}: {texts[other]}"


def _aligned_copy(data: bytes) -> np.ndarray:
    """Parameters lie at a multiple of 16, as on a device."""
    room = np.zeros(len(data) + 16, np.uint8)
    begin = -room.ctypes.data % 16
    room[begin : begin + len(data)] = np.frombuffer(data, np.uint8)
    return room[begin:]


def _sum(kernel: Kernel, counts: np.ndarray, allocations: Sequence[Allocation], traffic: np.ndarray) -> Counts:
    numbers = np.stack([counts[name] for name in NUMBERS], axis=1)
    result = Counts(**dict(zip(NUMBERS, numbers.sum(0).tolist(), strict=True)))
    for one, row in zip(allocations, traffic, strict=False):
        for kind in ("loads", "stores", "atomics"):
            if row[kind]:
                getattr(result, kind)[one.name] += int(row[kind])
    sources, ids = kernel.distinct_sources
    by_source = np.zeros((len(sources), len(NUMBERS)), np.uint64)
    np.add.at(by_source, ids, numbers)
    for source, row in zip(sources, by_source.tolist(), strict=True):
        if any(row):
            result.lines[source] = Counter({name: n for name, n in zip(NUMBERS, row, strict=True) if n})
    return result
