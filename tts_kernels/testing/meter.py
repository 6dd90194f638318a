"""Exact memory traffic of Triton kernels, counted while they run in the interpreter.

    with Meter() as meter:
        merge_states(outs, lses, backend="triton")
    meter.traffic("outs_ptr", "load").requested

A pointer carries the number of its tensor argument in its upper bits, so that an access outside that tensor is an
error even where it falls into another one. Not modelled: the L1 cache beyond "a program reads a sector once", the
promotion of a sector to a cache line, and when a write-back happens.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from inspect import getcallargs
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import triton
from triton.runtime import interpreter as stock
from triton.runtime.interpreter import TensorHandle

from tts_kernels.testing import interpreter
from tts_kernels.testing.races import Ordering, Race
from tts_kernels.testing.traffic import SECTOR, Access, Dram, Launch, Program, Traffic

__all__ = ["Access", "Dram", "Launch", "Meter", "OutOfBounds", "Program", "Race", "Traffic"]

# User addresses have 47 bits on x86-64 and 48 on aarch64.
_TAG = np.uint64(48)
_ADDRESS = np.uint64((1 << 48) - 1)


class OutOfBounds(Exception):
    """An active lane left its tensor. The message names kernel, program, line and tensor."""


@dataclass(frozen=True)
class _Argument:
    """A tensor argument: the addresses [begin, end) of its elements, and its storage."""

    name: str
    begin: int
    end: int
    element: int
    storage: int
    storage_size: int


def _argument(name: str, tensor: Any) -> _Argument:
    extent = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True)) + 1
    begin, storage = tensor.data_ptr(), tensor.untyped_storage()
    end = begin + (extent * tensor.element_size() if tensor.numel() else 0)
    return _Argument(name, begin, end, tensor.element_size(), storage.data_ptr(), storage.nbytes())


def _tensors(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The tensors of an argument: itself, a tuple's, or a descriptor's."""
    if isinstance(value, tuple):
        for index, item in enumerate(value):
            yield from _tensors(f"{name}[{index}]", item)
    elif isinstance(value, stock.TensorDescriptor):
        yield name, value.base
    elif hasattr(value, "data_ptr"):
        yield name, value


def _line() -> str:
    """Where the kernel is: the innermost frame that is neither Triton's nor ours."""
    mine = str(Path(triton.__file__).parent), __file__, interpreter.__file__
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(mine):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"


class Meter:
    """Context in which every interpreted launch is recorded in ``launches``.

    Raises OutOfBounds from the launch. Races do not raise: look at ``races``. With check_races=False they are not
    looked for, which is faster.
    """

    def __init__(self, check_races: bool = True) -> None:
        self.launches: list[Launch] = []
        self._check_races = check_races
        self._arguments: list[_Argument] = []
        self._tags: dict[int, int] = {}
        self._ordering: Ordering | None = None
        self._stack = ExitStack()

    @property
    def races(self) -> list[Race]:
        return [race for launch in self.launches for race in launch.races]

    def traffic(self, tensor: str | None = None, kind: str | None = None, kernel: str | None = None) -> Traffic:
        """Sum over the launches (of one kernel, or all): see ``Launch.traffic``."""
        chosen = [launch for launch in self.launches if kernel in (None, launch.kernel)]
        return sum((launch.traffic(tensor, kind) for launch in chosen), Traffic())

    def __enter__(self) -> Meter:
        interpreter.install()
        builder = stock.interpreter_builder
        hooks = [
            (builder, "create_masked_load", self._on_load),
            (builder, "create_masked_store", self._on_store),
            (builder, "create_atomic_rmw", self._on_rmw),
            (builder, "create_atomic_cas", self._on_cas),
            (builder, "create_barrier", self._on_barrier),
            (builder, "set_grid_idx", self._on_program),
            (stock.GridExecutor, "_init_args_hst", self._on_launch),
            (stock, "_implicit_cvt", self._on_convert),
        ]
        for owner, name, hook in hooks:
            self._stack.enter_context(patch.object(owner, name, hook(getattr(owner, name))))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def _on_launch(self, wrapped: Any) -> Any:
        def start(executor: Any, args: Any, kwargs: Any) -> Any:
            host_args, host_kwargs = wrapped(executor, args, kwargs)
            self._arguments, self._tags, self._ordering = [], {}, None
            for name, value in getcallargs(executor.fn, *host_args, **host_kwargs).items():
                for full_name, tensor in _tensors(name, value):
                    self._arguments.append(_argument(full_name, tensor))
                    self._tags[id(tensor)] = len(self._arguments)
            self.launches.append(Launch(executor.fn.__name__))
            return host_args, host_kwargs

        return start

    def _on_convert(self, wrapped: Any) -> Any:
        def convert(value: Any) -> Any:
            tensor = wrapped(value)
            tag = self._tags.get(id(value))
            if tag is not None:
                tensor.handle.data = tensor.handle.data | (np.uint64(tag) << _TAG)
            return tensor

        return convert

    def _on_program(self, wrapped: Any) -> Any:
        def begin(x: int, y: int, z: int) -> None:
            wrapped(x, y, z)
            launch = self.launches[-1]
            launch.programs.append(Program((x, y, z)))
            if self._check_races:
                if self._ordering is None:
                    self._ordering = Ordering(math.prod(stock.interpreter_builder.grid_dim), launch.races)
                self._ordering.begin()

        return begin

    def _on_barrier(self, wrapped: Any) -> Any:
        def barrier() -> None:
            wrapped()
            if self._ordering is not None:
                self._ordering.barrier()

        return barrier

    def _on_load(self, wrapped: Any) -> Any:
        def load(ptrs: TensorHandle, mask: TensorHandle, *rest: Any) -> TensorHandle:
            return wrapped(self._record("load", ptrs, mask), mask, *rest)

        return load

    def _on_store(self, wrapped: Any) -> Any:
        def store(ptrs: TensorHandle, value: TensorHandle, mask: TensorHandle, *rest: Any) -> Any:
            return wrapped(self._record("store", ptrs, mask), value, mask, *rest)

        return store

    def _on_rmw(self, wrapped: Any) -> Any:
        def rmw(op: Any, ptr: TensorHandle, val: Any, mask: TensorHandle, sem: Any, scope: Any) -> TensorHandle:
            return wrapped(op, self._record("atomic", ptr, mask, sem), val, mask, sem, scope)

        return rmw

    def _on_cas(self, wrapped: Any) -> Any:
        def cas(ptr: TensorHandle, cmp: Any, val: Any, sem: Any, scope: Any) -> TensorHandle:
            return wrapped(self._record("atomic", ptr, None, sem), cmp, val, sem, scope)

        return cas

    def _record(self, kind: str, ptrs: TensorHandle, mask: Any, sem: Any = None) -> TensorHandle:
        """Note the access of the active lanes; returns the pointers without their tags."""
        live = ptrs.data.reshape(-1)
        if mask is not None:
            # The mask of a descriptor is a bare array.
            live = live[np.broadcast_to(getattr(mask, "data", mask), ptrs.data.shape).reshape(-1).astype(bool)]
        size = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
        for tag in np.unique(live >> _TAG).tolist():
            addresses = (live[live >> _TAG == tag] & _ADDRESS).astype(np.int64)
            self._touch(kind, self._owner(tag, addresses, size, kind), addresses, size)
            if sem is not None and self._ordering is not None:
                order = stock._ir.MEM_SEMANTIC
                acquire = sem in (order.ACQUIRE, order.ACQUIRE_RELEASE)
                self._ordering.synchronise(addresses, acquire, sem in (order.RELEASE, order.ACQUIRE_RELEASE))
        return TensorHandle(ptrs.data & _ADDRESS, ptrs.dtype)

    def _owner(self, tag: int, addresses: np.ndarray, size: int, kind: str) -> _Argument:
        """The argument that all addresses are in. A pointer that was loaded from memory has no tag."""
        first, last = int(addresses.min()), int(addresses.max()) + size
        candidates = self._arguments[tag - 1 : tag] if tag else self._arguments
        for argument in candidates:
            if argument.begin <= first and last <= argument.end:
                return argument
        launch = self.launches[-1]
        where = f"{launch.kernel}, program {launch.programs[-1].index}, {_line()}: {kind} out of bounds"
        if not candidates or not tag:
            raise OutOfBounds(f"{where}: in no tensor")
        argument = candidates[0]
        outside = addresses[(addresses < argument.begin) | (addresses + size > argument.end)]
        raise OutOfBounds(
            f"{where}: {outside.size} lanes, the first at byte {outside[0] - argument.begin:+d} of {argument.name}, "
            f"which has {argument.end - argument.begin}"
        )

    def _touch(self, kind: str, argument: _Argument, addresses: np.ndarray, size: int) -> None:
        unique = np.unique(addresses)
        sectors = np.unique(np.concatenate([unique // SECTOR, (unique + size - 1) // SECTOR]))
        access = Access(kind, argument.name, addresses.size * size, sectors)
        self.launches[-1].programs[-1].accesses.append(access)
        if self._ordering is None:
            return
        if kind == "store" and unique.size < addresses.size:
            self._ordering.same_element_twice(argument.name, addresses.size - unique.size)
        grain = min(a.element for a in self._arguments if a.storage == argument.storage)
        at = (unique - argument.storage) // grain
        if size > grain:
            at = (at[:, None] + np.arange(size // grain)).reshape(-1)
        self._ordering.access(kind, argument.name, argument.storage, argument.storage_size // grain, np.unique(at))
