"""Launches that come from C: see the package's docstring."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence

from .counts import Counts
from .layout import PtxError
from .module import Allocation, Mode, Module

_CALLBACK = ctypes.CFUNCTYPE(
    ctypes.c_int,
    ctypes.c_char_p,
    ctypes.POINTER(ctypes.c_uint32),
    ctypes.c_uint32,
    ctypes.c_uint64,
    ctypes.c_void_p,
    ctypes.c_uint64,
)
_LAUNCH_FAILURE = 719


class Runner:
    """callback: the C function. launches: (symbol, grid, threads, shared bytes) in the order they came."""

    def __init__(
        self, modules: Sequence[Module], allocations: Callable[[], Sequence[Allocation]], mode: Mode, seed: int
    ) -> None:
        self.callback = _CALLBACK(self._launch)
        self.counts: dict[str, Counts] = {}
        self.launches: list[tuple[str, tuple[int, int, int], int, int]] = []
        self.error: Exception | None = None
        self._modules = modules
        self._allocations = allocations
        self._mode: Mode = mode
        self._seed = seed

    def check(self) -> None:
        """Raises the first error of any launch since the last check."""
        error, self.error = self.error, None
        if error:
            raise error

    def _launch(self, symbol: bytes, grid, threads: int, shared_bytes: int, params: int, size: int) -> int:
        # An exception cannot pass through C.
        try:
            self._run(symbol.decode(), tuple(grid[:3]), threads, shared_bytes, ctypes.string_at(params, size))
        except Exception as error:
            self.error = self.error or error
            return _LAUNCH_FAILURE
        return 0

    def _run(self, symbol: str, grid: tuple[int, int, int], threads: int, shared_bytes: int, params: bytes) -> None:
        self.launches.append((symbol, grid, threads, shared_bytes))
        module = next((module for module in self._modules if symbol in module), None)
        if module is None:
            raise PtxError(f"{symbol}: in no module")
        counts = module.launch(
            symbol, grid, threads, shared_bytes, params, self._allocations(), mode=self._mode, seed=self._seed
        )
        self.counts.setdefault(symbol, Counts()).add(counts)


def executor_callback(
    modules: Sequence[Module],
    allocations: Callable[[], Sequence[Allocation]],
    *,
    mode: Mode = "late",
    seed: int = 0,
) -> Runner:
    """allocations: called at each launch, what its kernel may touch."""
    return Runner(modules, allocations, mode, seed)
