"""Which accesses of a launch have no order between its programs.

Programs of one launch run in any order, so an element that one of them stores to may not be touched by another, unless
an atomic on a common counter orders the two: what a program did before its release happens before what another does
after its acquire. Every element remembers who touched it last and when; programs keep vector clocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Race:
    """Two programs (their indices in the order of execution) that touch elements of one tensor in no order.

    what: e.g. "load after store". elements: how many elements of the tensor in the access that showed it.
    """

    tensor: str
    what: str
    first: int
    second: int
    elements: int


@dataclass
class _Shadow:
    """Who did one kind of access to each element of a storage last, and all who did where that matters."""

    program: np.ndarray  # [elements] index + 1, 0: nobody
    clock: np.ndarray  # [elements]
    several: np.ndarray  # [elements] bool
    log: list[tuple[int, int, np.ndarray]] = field(default_factory=list)

    @classmethod
    def of(cls, elements: int) -> _Shadow:
        # Zeroed memory that nobody touches costs nothing, however large the pool of pages is.
        return cls(np.zeros(elements, np.int32), np.zeros(elements, np.int32), np.zeros(elements, bool))

    def unordered(self, at: np.ndarray, seen: np.ndarray, me: int) -> tuple[int, int] | None:
        """A program whose access to one of ``at`` is not among what program ``me`` has seen, and how many are so."""
        last = self.program[at].astype(np.int64) - 1
        bad = (last >= 0) & (last != me) & (self.clock[at] > seen[last])
        if bad.any():
            return int(last[bad][0]), int(bad.sum())
        shared = at[self.several[at]]
        for program, clock, elements in self.log if shared.size else ():
            if program != me and clock > seen[program]:
                count = int(np.isin(shared, elements).sum())
                if count:
                    return program, count
        return None

    def note(self, at: np.ndarray, me: int, clock: int, keep: bool) -> None:
        if keep:
            last = self.program[at]
            self.several[at] |= (last != 0) & (last != me + 1)
            self.log.append((me, clock, at))
        self.program[at] = me + 1
        self.clock[at] = clock


# What an access must be ordered after; atomics are ordered among themselves.
_CLASHES = {"load": ("store", "atomic"), "store": ("store", "atomic", "load"), "atomic": ("store", "load")}


class Ordering:
    """Follows one launch, program after program, access after access.

    A program has two clocks: of plain accesses, which moves at barriers, and of atomics. Only what all threads
    did before a barrier is published by the one thread that does the next atomic, and that atomic itself.
    """

    def __init__(self, programs: int, races: list[Race]) -> None:
        """races: where the first race of each tensor and kind goes."""
        self._races = races
        self._seen = np.zeros((2, programs), np.int64)
        self._me = -1
        self._barriers = self._atomics = 0
        self._released: dict[int, dict[int, tuple[int, int]]] = {}
        self._shadows: dict[tuple[int, str], _Shadow] = {}

    def _report(self, race: Race) -> None:
        if (race.tensor, race.what) not in ((r.tensor, r.what) for r in self._races):
            self._races.append(race)

    def begin(self) -> None:
        self._me += 1
        self._barriers = self._atomics = 0
        self._seen[:] = 0

    def barrier(self) -> None:
        self._barriers += 1

    def access(self, kind: str, tensor: str, storage: int, elements: int, at: np.ndarray) -> None:
        """at: unique indices of elements of a storage that holds ``elements`` of them."""
        for other in _CLASHES[kind]:
            shadow = self._shadows.get((storage, other))
            found = shadow.unordered(at, self._seen[int(other == "atomic")], self._me) if shadow else None
            if found:
                self._report(Race(tensor, f"{kind} after {other}", found[0], self._me, found[1]))
        self._atomics += kind == "atomic"
        clock = self._atomics if kind == "atomic" else self._barriers + 1
        shadow = self._shadows.setdefault((storage, kind), _Shadow.of(elements))
        shadow.note(at, self._me, clock, keep=kind != "store")

    def same_element_twice(self, tensor: str, elements: int) -> None:
        """Two lanes of one store: which of them stays is undefined."""
        self._report(Race(tensor, "two lanes of one store", self._me, self._me, elements))

    def synchronise(self, addresses: np.ndarray, acquire: bool, release: bool) -> None:
        """An atomic on these addresses: learn what earlier ones released, release what this program knows."""
        for address in addresses.tolist():
            released = self._released.setdefault(address, {})
            if acquire:
                for program, clocks in released.items():
                    self._seen[:, program] = np.maximum(self._seen[:, program], clocks)
            if release:
                self._seen[:, self._me] = self._barriers, self._atomics
                for program in np.flatnonzero(self._seen.any(0)).tolist():
                    plain, atomic = self._seen[:, program].tolist()
                    before = released.get(program, (0, 0))
                    released[program] = max(before[0], plain), max(before[1], atomic)
