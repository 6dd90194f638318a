"""What launches did to memory, summed."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Counts:
    """requests, sectors (of 32 bytes), bytes: global memory, atomics included. wide: accesses of 16 bytes by a lane.
    shared_requests, wavefronts, ideal_wavefronts: shared memory; equal wavefronts mean no bank conflict.
    local: accesses by a lane to local memory. executed: instructions, by warp.
    loads, stores, atomics: bytes by name of the allocation. lines: the numbers by CUDA source line.
    """

    executed: int = 0
    requests: int = 0
    sectors: int = 0
    bytes: int = 0
    wide: int = 0
    shared_requests: int = 0
    wavefronts: int = 0
    ideal_wavefronts: int = 0
    local: int = 0
    loads: Counter[str] = field(default_factory=Counter)
    stores: Counter[str] = field(default_factory=Counter)
    atomics: Counter[str] = field(default_factory=Counter)
    lines: dict[str, Counter[str]] = field(default_factory=dict)

    def add(self, other: Counts) -> None:
        for name in NUMBERS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in ("loads", "stores", "atomics"):
            getattr(self, name).update(getattr(other, name))
        for line, numbers in other.lines.items():
            self.lines.setdefault(line, Counter()).update(numbers)


NUMBERS = [name for name, kind in Counts.__annotations__.items() if kind == "int"]
