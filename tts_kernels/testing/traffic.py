"""What a kernel launch moved, in bytes, and what of it passes a cache."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import astuple, dataclass, field

import numpy as np

from tts_kernels.testing.races import Race

SECTOR = 32


@dataclass(frozen=True)
class Traffic:
    """Bytes of some tensors' accesses of some kinds.

    requested: by active lanes, duplicates counted. tile: 32-byte sectors, unique per tile operation (what L1 is asked
    for). program: unique per program (what L2 is asked for when L1 holds a program's working set). cold: unique per
    launch (what DRAM must move at least).
    """

    requested: int = 0
    tile: int = 0
    program: int = 0
    cold: int = 0

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Dram:
    """Bytes read from and written to DRAM behind an L2; what is dirty at the end counts as written."""

    read: int
    written: int


@dataclass(frozen=True, eq=False)
class Access:
    """One tile operation on one tensor.

    kind: "load", "store" or "atomic". requested: bytes. sectors: [*] numbers of the 32-byte sectors that it touches,
    unique and ascending.
    """

    kind: str
    tensor: str
    requested: int
    sectors: np.ndarray


@dataclass(frozen=True)
class Program:
    """One program of a launch: its id (x, y, z) and its accesses in order."""

    index: tuple[int, int, int]
    accesses: list[Access] = field(default_factory=list)


@dataclass(frozen=True)
class Launch:
    """What one launch did. programs: in the order in which they ran in the interpreter."""

    kernel: str
    programs: list[Program] = field(default_factory=list)
    races: list[Race] = field(default_factory=list)

    def traffic(self, tensor: str | None = None, kind: str | None = None) -> Traffic:
        """Of one tensor argument, or all; of one kind of access ("load", "store", "atomic"), or all."""
        requested = tile = 0
        per_program = []
        for program in self.programs:
            mine = [a for a in program.accesses if tensor in (None, a.tensor) and kind in (None, a.kind)]
            requested += sum(a.requested for a in mine)
            tile += sum(a.sectors.size for a in mine)
            if mine:
                per_program.append(np.unique(np.concatenate([a.sectors for a in mine])))
        unique = np.unique(np.concatenate(per_program)).size if per_program else 0
        return Traffic(requested, tile * SECTOR, sum(s.size for s in per_program) * SECTOR, unique * SECTOR)

    def table(self) -> dict[tuple[str, str], Traffic]:
        """Traffic by (tensor, kind)."""
        keys = dict.fromkeys((a.tensor, a.kind) for program in self.programs for a in program.accesses)
        return {key: self.traffic(*key) for key in keys}

    def through_l2(self, size: int, wave: int = 132) -> Dram:
        """DRAM traffic behind an empty, fully associative LRU L2 of ``size`` bytes.

        ``wave`` programs run at a time, started with x fastest as a GPU does, and take turns: one tile operation each.
        A store allocates its sectors without reading them.
        """
        cache: OrderedDict[int, bool] = OrderedDict()
        read = written = 0
        for access in _interleaved(self.programs, wave):
            for sector in access.sectors.tolist():
                dirty = cache.pop(sector, None)
                read += dirty is None and access.kind != "store"
                cache[sector] = bool(dirty) or access.kind != "load"
                if len(cache) > size // SECTOR:
                    written += cache.popitem(last=False)[1]
        return Dram(read * SECTOR, (written + sum(cache.values())) * SECTOR)


def _interleaved(programs: list[Program], wave: int) -> Iterator[Access]:
    waiting = deque(iter(p.accesses) for p in sorted(programs, key=lambda p: p.index[::-1]))
    running = deque(waiting.popleft() for _ in range(min(wave, len(waiting))))
    while running:
        accesses = running.popleft()
        access = next(accesses, None)
        if access is not None:
            yield access
            running.append(accesses)
        elif waiting:
            running.append(waiting.popleft())
