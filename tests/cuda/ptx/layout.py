"""What the C++ headers of the executor say, for Python: enumerators, and structs as numpy types."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
_SCALARS = {
    "int32_t": "i4", "uint32_t": "u4", "int64_t": "i8", "uint64_t": "u8", "uint16_t": "u2", "uint8_t": "u1",
}  # fmt: skip


class PtxError(Exception):
    """A kernel that cannot be decoded, or did what a kernel may not do."""


def enumerators(name: str) -> dict[str, int]:
    """Values by lower-case name without the k, of an enum in instruction.h."""
    text = (HERE / "instruction.h").read_text()
    body = re.search(rf"enum (?:class )?{name}\b[^{{]*{{([^}}]*)}}", text)
    assert body, name
    return {word[1:].lower(): i for i, word in enumerate(re.findall(r"\w+", body[1]))}


def struct(name: str, header: str) -> np.dtype:
    """The layout of a struct of scalars, arrays of them and pointers."""
    body = re.search(rf"struct {name} {{([^}}]*)}}", (HERE / header).read_text())
    assert body, name
    fields: list[tuple] = []
    for line in re.sub(r"//.*", "", body[1]).split(";"):
        match = re.match(r"\s*((?:const )?\w+\s*\*?)\s*(.+)", line.strip(), re.S)
        if not match:
            continue
        kind = "u8" if "*" in match[1] else _SCALARS[match[1].strip()]
        for variable in match[2].split(","):
            field, count = re.fullmatch(r"\s*(\w+)(?:\[(\d+)\])?\s*", variable).groups()
            fields.append((field, kind, (int(count),)) if count else (field, kind))
    return np.dtype(fields, align=True)
