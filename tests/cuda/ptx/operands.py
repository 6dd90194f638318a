"""Where operands live: cells of 32 lanes each, in a warp's registers or among the kernel's constants."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import numpy as np

from .layout import enumerators
from .parse import parse_array, type_bytes

LANES = 32
SHARED_BASE = 1024
_REG = re.compile(r"\.reg\s+\.(\w+)\s+(.*)")


@dataclass
class _Scope:
    """Bytes of the registers declared in it, and the cells of those that appeared."""

    widths: dict[str, int] = field(default_factory=dict)
    cells: dict[str, int] = field(default_factory=dict)


class Operands:
    """symbols: addresses of what has a name. Registers get cells when they first appear."""

    def __init__(self, symbols: dict[str, int]) -> None:
        self.symbols = symbols
        self.local_bytes = 0
        self._scopes: list[_Scope] = []
        specials = enumerators("Special")
        self._specials = {name: i * 4 * LANES for name, i in specials.items() if name != "numspecials"}
        self.register_bytes = specials["numspecials"] * 4 * LANES
        # Written where an instruction has a result that the kernel does not want.
        self.sink = self._allocate(8)
        self._constants: dict[tuple[int, int], int] = {}
        self._constant_data: list[np.ndarray] = []
        self._constant_bytes = 0
        self._constant(0, 8)

    def scope(self, brace: str) -> None:
        if brace == "{":
            self._scopes.append(_Scope())
        else:
            self._scopes.pop()

    def declare(self, text: str) -> None:
        """A directive: registers and memory count, everything else is for assemblers and debuggers."""
        if match := _REG.match(text):
            for name in match[2].split(","):
                numbered = re.fullmatch(r"(\S+?)<(\d+)>", name.strip())
                names = [f"{numbered[1]}{i}" for i in range(int(numbered[2]))] if numbered else [name.strip()]
                self._scopes[-1].widths.update(dict.fromkeys(names, type_bytes(match[1])))
        elif array := parse_array(text):
            if array.space != "local":
                raise ValueError("static shared memory")
            self.local_bytes += -self.local_bytes % array.align
            self.symbols[array.name] = self.local_bytes
            self.local_bytes += array.size

    def width(self, text: str, otherwise: int) -> int:
        """Bytes of a register's cell; `otherwise` for anything that is no register."""
        scope = self._scope_of(text.strip())
        return scope.widths[text.strip()] if scope else otherwise

    def destination(self, text: str) -> int:
        text = text.strip()
        return self.sink if text == "_" else self._register(text)

    def source(self, text: str, width: int) -> int:
        """width: bytes of a constant's cell."""
        text = text.strip()
        special = text.removeprefix("%").replace(".", "").replace("_", "")
        if text.startswith("%") and special in self._specials:
            return self._specials[special]
        if self._scope_of(text):
            return self._register(text)
        return self._constant(self._number(text), width)

    def address(self, text: str) -> tuple[int, int, int]:
        """Operand, what is added to it, and its bytes, of "[base+offset]"."""
        base, _, offset = text.strip("[] ").partition("+")
        number = int(offset, 0) if offset else 0
        if not self._scope_of(base):
            return self._constant(0, 8), self._number(base) + number, 8
        return self._register(base), number, self.width(base, 8)

    def constant_cells(self) -> np.ndarray:
        return np.concatenate(self._constant_data)

    def _scope_of(self, name: str) -> _Scope | None:
        return next((scope for scope in reversed(self._scopes) if name in scope.widths), None)

    def _register(self, name: str) -> int:
        scope = self._scope_of(name)
        if not scope:
            raise KeyError(name)
        if name not in scope.cells:
            scope.cells[name] = self._allocate(scope.widths[name])
        return scope.cells[name]

    def _allocate(self, width: int) -> int:
        # Whole cache lines, for vector loads.
        begin = self.register_bytes
        self.register_bytes += max(width * LANES, 64)
        return begin

    def _number(self, text: str) -> int:
        if text in self.symbols:
            return self.symbols[text]
        if match := re.fullmatch(r"0[fFdD]([0-9a-fA-F]+)", text):
            return int(match[1], 16)
        return int(text.rstrip("U"), 0)

    def _constant(self, value: int, width: int) -> int:
        key = (value & ((1 << 8 * width) - 1), width)
        if key not in self._constants:
            self._constants[key] = ~self._constant_bytes
            cells = np.full(LANES, key[0], f"u{width}").view(np.uint8)
            self._constant_data.append(cells)
            self._constant_bytes += cells.nbytes
        return self._constants[key]
