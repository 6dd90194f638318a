"""A module of PTX, and its launches on the host's memory."""

from __future__ import annotations

import ctypes
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from .build import executor
from .counts import NUMBERS, Counts
from .decode import Kernel, decode
from .layout import PtxError, struct
from .operands import SHARED_BASE
from .parse import parse_arrays, parse_entries

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
            if array.space == "shared":
                # The executor knows one array of shared memory, the dynamic one.
                if array.size:
                    raise PtxError(f"static shared memory: {array.name}")
                self._symbols[array.name] = SHARED_BASE
                continue
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
        table = np.zeros(max(len(everything), 1), _ALLOCATION)
        names = [ctypes.create_string_buffer(one.name.encode()) for one in everything]
        for row, one, name in zip(table, everything, names, strict=False):
            row["name"], row["begin"], row["end"] = ctypes.addressof(name), one.begin, one.end
            row["writable"] = one.writable
        counts = np.zeros(len(kernel.code), _LINE_COUNTS)
        traffic = np.zeros(len(table), _TRAFFIC)
        message = ctypes.create_string_buffer(1024)
        aligned = _aligned_copy(params)
        launch = np.zeros(1, _LAUNCH)
        given = {
            "code": kernel.code.ctypes.data, "targets": kernel.targets.ctypes.data,
            "constants": kernel.constants.ctypes.data, "params": aligned.ctypes.data, "allocations": table.ctypes.data,
            "counts": counts.ctypes.data, "traffic": traffic.ctypes.data, "message": ctypes.addressof(message),
            "num_instructions": len(kernel.code), "register_bytes": kernel.register_bytes,
            "local_bytes": kernel.local_bytes, "params_bytes": len(params), "num_allocations": len(everything),
            "message_bytes": len(message), "shared_bytes": shared_bytes, "max_executed": max_executed, "seed": seed,
            "grid": (*grid, 1, 1)[:3], "threads": threads, "late": mode == "late", "other_at": -1,
        }  # fmt: skip
        for field, value in given.items():
            launch[field] = value
        if executor().run_launch(ctypes.c_void_p(launch.ctypes.data)):
            raise PtxError(_explain(symbol, kernel, message.value.decode(), launch[0]))
        return _sum(kernel, counts, everything, traffic)


def _aligned_copy(data: bytes) -> np.ndarray:
    """Parameters lie at a multiple of 16, as on a device."""
    room = np.zeros(len(data) + 16, np.uint8)
    begin = -room.ctypes.data % 16
    room[begin : begin + len(data)] = np.frombuffer(data, np.uint8)
    return room[begin:]


def _explain(symbol: str, kernel: Kernel, message: str, launch: np.void) -> str:
    at, other = int(launch["fault_at"]), int(launch["other_at"])
    text = f"{symbol}: {message}, at {kernel.sources[at]}: {kernel.texts[at]}"
    return text if other < 0 else f"{text}; the other at {kernel.sources[other]}: {kernel.texts[other]}"


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
