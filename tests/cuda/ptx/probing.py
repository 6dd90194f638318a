"""Launches of the probes: small kernels for tests of the interpreter."""

from __future__ import annotations

import functools
import struct
from typing import Any

import numpy as np
import torch

from .build import CACHE, compile_ptx
from .counts import Counts
from .layout import HERE
from .module import Allocation, Module

PROBES = HERE / "probes.cu"
# Of the shim: the same kernels keep or break the same rules here.
_SHIM_PROBES = HERE.parent / "simt" / "probes.cu"


class Probes:
    def __init__(self) -> None:
        # Apart from the shim's headers, which nvcc would find beside it.
        copy = CACHE / "shim" / "shim_probes.cu"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(_SHIM_PROBES.read_text())
        self.own, self.shim = Module(compile_ptx(PROBES)), Module(compile_ptx(copy))

    def find(self, name: str) -> tuple[str, Module]:
        """Symbol and module of <name>_kernel; of "name<x>" the instance whose mangled argument is x."""
        stem, _, argument = name.rstrip(">").partition("<")
        part = f"{len(stem) + 7}{stem}_kernel" + (f"I{argument}E" if argument else "")
        ((symbol, module),) = [(s, m) for m in (self.own, self.shim) for s in m.symbols if part in s]
        return symbol, module

    def run(
        self,
        name: str,
        inputs: np.ndarray,
        out: np.ndarray,
        *,
        n: int = 0,
        counter: int = 0,
        blocks: int = 1,
        threads: int = 32,
        shared: int = 0,
        **options: Any,
    ) -> Counts:
        arrays = {"inputs": inputs, "out": out, "counter": np.array([counter], np.int32)}
        symbol, module = self.find(name)
        known = [Allocation(k, x.ctypes.data, x.ctypes.data + x.nbytes, k != "inputs") for k, x in arrays.items()]
        pointers = [one.begin for one in known[: 2 if module is self.own else 3]]
        params = struct.pack(f"{len(pointers)}Qq", *pointers, n)
        return module.launch(symbol, (blocks, 1, 1), threads, shared, params, known, **options)


@functools.cache
def probes() -> Probes:
    return Probes()


def aligned(size: int, dtype: Any = np.float32) -> np.ndarray:
    """1, 2, 3, ... at an address that is a multiple of 128."""
    width = np.dtype(dtype).itemsize
    raw = np.zeros(size * width + 128, np.uint8)
    begin = -raw.ctypes.data % 128
    array = raw[begin : begin + size * width].view(dtype)
    array[:] = np.arange(1, size + 1) % 30000
    return array


def check_conversions(x: np.ndarray, out: np.ndarray) -> None:
    """What the probe `convert` must make of float32 numbers: a half, a bfloat16, the half as a float, and 2^x."""
    bits = out.reshape(-1, 4)
    with np.errstate(over="ignore"):
        halves = x.astype(np.float16)
        powers = np.exp2(x.astype(np.float64)).astype(np.float32)
    assert (bits[:, 0].astype(np.uint16) == halves.view(np.uint16)).all()
    bfloats = torch.from_numpy(x).bfloat16().view(torch.int16).numpy().view(np.uint16)
    assert ((bits[:, 1] >> 16).astype(np.uint16) == bfloats).all()
    assert (bits[:, 2].copy().view(np.float32) == halves.astype(np.float32)).all()
    powers[powers < 2.0**-126] = 0
    np.testing.assert_allclose(bits[:, 3].copy().view(np.float32), powers, rtol=3e-7)
