"""One kernel's PTX as a table of instructions that the executor runs."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass

import numpy as np

from .layout import PtxError, struct
from .mnemonic import MODIFIERS, OPS, SPACES, TYPES, read_mnemonic
from .operands import Operands
from .parse import Entry, Statement

INSTRUCTION = struct("Instruction", "instruction.h")
NO_OPERAND = 2**31 - 1

# Sources that are not as wide as the type, by position.
_WIDTHS = {"shl": {1: 4}, "shr": {1: 4}, "bfe": {1: 4, 2: 4}, "bfi": {2: 4, 3: 4}, "selp": {2: 4}, "setp": {2: 4}}
_GUARD = re.compile(r"@(!?)(\S+)\s+")


@dataclass(frozen=True)
class Kernel:
    """code[i] came of texts[i], which nvcc made of the CUDA source line sources[i]."""

    code: np.ndarray
    targets: np.ndarray
    constants: np.ndarray
    register_bytes: int
    local_bytes: int
    params_bytes: int
    texts: list[str]
    sources: list[str]

    @functools.cached_property
    def distinct_sources(self) -> tuple[list[str], np.ndarray]:
        """Each source line once, and for every instruction which one it is of."""
        distinct, ids = np.unique(self.sources, return_inverse=True)
        return distinct.tolist(), ids


def decode(entry: Entry, symbols: dict[str, int]) -> Kernel:
    """symbols: addresses of the module's arrays."""
    return _Decoder(entry, symbols).kernel()


class _Decoder:
    def __init__(self, entry: Entry, symbols: dict[str, int]) -> None:
        self.entry = entry
        self.operands = Operands({**symbols, **entry.params})
        self.rows: list[dict] = []
        self.texts: list[str] = []
        self.sources: list[str] = []
        self.labels: dict[str, int] = {}
        self.tables: dict[str, list[str]] = {}

    def kernel(self) -> Kernel:
        label = ""
        for statement in self.entry.body:
            if statement.kind == "label":
                label = statement.text
                self.labels[label] = len(self.rows)
            elif statement.kind == "scope":
                self.operands.scope(statement.text)
            elif statement.text.startswith(".branchtargets"):
                self.tables[label] = re.findall(r"[\w$]+", statement.text)[1:]
            elif statement.text.startswith("."):
                self.operands.declare(statement.text)
            else:
                self._add(statement)
        targets = self._link()
        self._find_unread()
        # One tuple a row: numpy is slow at fields of single rows.
        fields = [(name, 0) for name in INSTRUCTION.names if name != "padding"]
        rows = [(*(row.get(name, zero) for name, zero in fields), (0, 0)) for row in self.rows]
        code = np.array(rows, INSTRUCTION)
        own = self.operands
        return Kernel(code, targets, own.constant_cells(), own.register_bytes, own.local_bytes,
                      self.entry.params_bytes, self.texts, self.sources)  # fmt: skip

    def _add(self, statement: Statement) -> None:
        try:
            self.rows.append(self._row(statement.text))
        except (KeyError, ValueError, IndexError) as error:
            message = f"{self.entry.symbol}: unknown instruction: {statement.text}, at {statement.source}"
            raise PtxError(f"{message} ({error})") from error
        self.texts.append(statement.text)
        self.sources.append(statement.source)

    def _link(self) -> np.ndarray:
        """Replaces labels by instructions; returns the entries of all branch tables."""
        targets: list[int] = []
        for row in self.rows:
            name = row.pop("label", None)
            if name in self.tables:
                row["target"], row["count"] = len(targets), len(self.tables[name])
                targets += [self.labels[entry] for entry in self.tables[name]]
            elif name:
                row["target"] = self.labels[name]
        return np.array([*targets, 0], np.int32)

    def _find_unread(self) -> None:
        """Marks the elements of loaded vectors that no instruction reads."""
        read = {operand for row in self.rows for operand in (*row["from"], row["guard"], row["member"])}
        for row in self.rows:
            if row["op"] == OPS["ld"]:
                row["unread"] = sum((row["to"][i] not in read) << i for i in range(row["count"]))

    def _row(self, text: str) -> dict:
        row: dict = {"guard": NO_OPERAND, "member": NO_OPERAND}
        if guard := _GUARD.match(text):
            row["guard"], row["guard_negated"] = self.operands.source(guard[2], 4), bool(guard[1])
            text = text[guard.end() :]
        mnemonic, _, rest = text.partition(" ")
        mnemonic, rest = (mnemonic, rest) if "\t" not in mnemonic else mnemonic.split("\t", 1)
        arguments = [part.strip() for part in re.findall(r"(?:\{[^}]*\}|[^,])+", rest)]
        name, fields = read_mnemonic(mnemonic)
        row |= fields
        fill = getattr(self, f"_fill_{name}", self._fill_plain)
        fill(name, row, arguments)
        # Whatever a row does not use reads the constant 0 and writes a cell that none reads.
        row["from"] = (row.get("from", []) + [-1] * 10)[:10]
        row["to"] = (row.get("to", []) + [self.operands.sink] * 4)[:4]
        return row

    def _fill_plain(self, name: str, row: dict, arguments: list[str]) -> None:
        width = row["bytes"]
        widths = _WIDTHS.get(name, {})
        if name == "mad" and row["modifiers"] >> MODIFIERS["wide"] & 1:
            widths = {2: 2 * width}
        if name == "setp" and len(arguments) == 4 and arguments[3].startswith("!"):
            row["combine_negated"], arguments[3] = True, arguments[3][1:]
        row["to"] = [self.operands.destination(part) for part in arguments[0].split("|")] if arguments else []
        sources = enumerate(arguments[1:])
        row["from"] = [self.operands.source(part, widths.get(i, width)) for i, part in sources]

    def _fill_none(self, name: str, row: dict, arguments: list[str]) -> None:
        """Operands that mean nothing here, or none."""

    _fill_membar = _fill_fence = _fill_exit = _fill_ret = _fill_trap = _fill_nanosleep = _fill_prefetch = _fill_none
    _fill_commit = _fill_none

    def _fill_wait(self, name: str, row: dict, arguments: list[str]) -> None:
        row["offset"] = int(arguments[0]) if arguments else 0

    def _fill_bra(self, name: str, row: dict, arguments: list[str]) -> None:
        row["label"] = arguments[0]

    def _fill_brx(self, name: str, row: dict, arguments: list[str]) -> None:
        row["from"], row["label"] = [self.operands.source(arguments[0], 4)], arguments[1]

    def _fill_bar(self, name: str, row: dict, arguments: list[str]) -> None:
        row["offset"] = int(arguments[0])
        row["from"] = [-1] + [self.operands.source(part, 4) for part in arguments[1:]]

    def _fill_barred(self, name: str, row: dict, arguments: list[str]) -> None:
        result, barrier, *counts, predicate = arguments
        row["combine_negated"], row["offset"] = predicate.startswith("!"), int(barrier)
        row["to"] = [self.operands.destination(result)]
        row["from"] = [self.operands.source(part, 4) for part in (predicate.lstrip("!"), *counts)]

    def _fill_barwarp(self, name: str, row: dict, arguments: list[str]) -> None:
        row["member"] = self.operands.source(arguments[0], 4)

    def _fill_shfl(self, name: str, row: dict, arguments: list[str]) -> None:
        row["member"] = self.operands.source(arguments.pop(), 4)
        if arguments[1].startswith("!"):
            row["combine_negated"], arguments[1] = True, arguments[1][1:]
        self._fill_plain(name, row, arguments)

    _fill_vote = _fill_redux = _fill_match = _fill_shfl

    def _fill_mov(self, name: str, row: dict, arguments: list[str]) -> None:
        to, source = arguments
        if source == "-1" and row["type"] == TYPES["pred"]:
            source = arguments[1] = "1"
        if not to.startswith("{") and not source.startswith("{"):
            return self._fill_plain(name, row, arguments)
        width = row["bytes"]
        parts = (to if to.startswith("{") else source).strip("{} ").split(",")
        row["count"], part = len(parts), width // len(parts)
        if to.startswith("{"):
            row["op"], row["to_bytes"], row["from_bytes"] = OPS["unpack"], part, width
            row["to"] = [self.operands.destination(name) for name in parts]
            row["from"] = [self.operands.source(source, width)]
        else:
            row["op"], row["to_bytes"], row["from_bytes"] = OPS["pack"], width, part
            row["to"] = [self.operands.destination(to)]
            row["from"] = [self.operands.source(name, part) for name in parts]

    def _fill_cvt(self, name: str, row: dict, arguments: list[str]) -> None:
        width, source_width = row["bytes"], row["source_bytes"]
        row["to_bytes"] = self.operands.width(arguments[0], width)
        row["from_bytes"] = self.operands.width(arguments[1], source_width)
        row["to"] = [self.operands.destination(arguments[0])]
        row["from"] = [self.operands.source(part, row["from_bytes"]) for part in arguments[1:]]

    _fill_cvta = _fill_cvt

    def _address(self, row: dict, text: str) -> int:
        operand, row["offset"], row["address_bytes"] = self.operands.address(text)
        return operand

    def _fill_ld(self, name: str, row: dict, arguments: list[str]) -> None:
        names = arguments[0].strip("{} ").split(",")
        row["to_bytes"] = self.operands.width(names[0], row["bytes"])
        row["to"] = [self.operands.destination(part) for part in names]
        row["from"] = [self._address(row, arguments[1])]

    def _fill_ldmatrix(self, name: str, row: dict, arguments: list[str]) -> None:
        self._fill_ld(name, row, arguments)

    def _fill_st(self, name: str, row: dict, arguments: list[str]) -> None:
        width = row["bytes"]
        names = arguments[1].strip("{} ").split(",")
        row["from_bytes"] = max((self.operands.width(part, 0) for part in names), default=0) or width
        row["from"] = [self._address(row, arguments[0])]
        row["from"] += [self.operands.source(part, row["from_bytes"]) for part in names]

    def _fill_atom(self, name: str, row: dict, arguments: list[str]) -> None:
        width = row["bytes"]
        row["to"] = [] if name == "red" else [self.operands.destination(arguments.pop(0))]
        row["from"] = [self._address(row, arguments[0])]
        row["from"] += [self.operands.source(part, width) for part in arguments[1:]]

    _fill_red = _fill_atom

    def _fill_copy(self, name: str, row: dict, arguments: list[str]) -> None:
        to, source, size, *live = arguments
        operand, offset, _ = self.operands.address(source)
        if offset:
            raise ValueError("an offset to the source")
        row["from"] = [self._address(row, to), operand, self.operands.source(live[0] if live else size, 4)]
        row["space"], row["count"] = SPACES["shared"], int(size)

    def _fill_mma(self, name: str, row: dict, arguments: list[str]) -> None:
        groups = [part.strip("{} ").split(",") for part in arguments]
        row["to"] = [self.operands.destination(part) for part in groups[0]]
        a, b, c = ([self.operands.source(part, 4) for part in group] for group in groups[1:])
        row["from"] = a + [-1] * (4 - len(a)) + b + [-1] * (2 - len(b)) + c
