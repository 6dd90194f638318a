"""The text of a PTX module taken apart: entries, arrays, statements. What they mean is decode.py's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_ENTRY = re.compile(r"\.entry\s+([\w$]+)\s*\(")
_PARAM = re.compile(r"\.param\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)(?:\[(\d+)\])?")
_ARRAY = re.compile(
    r"^\s*(?:\.(?:visible|extern|weak)\s+)?\.(const|global|shared|local)\s+(?:\.align\s+(\d+)\s+)?\.(\w+)\s+([\w$]+)"
    r"(?:\[(\d*)\])?(?:\s*=\s*(.*))?$"
)
_LABEL = re.compile(r"([\w$]+):(?!:)\s*")
_LOC = re.compile(r"\.loc\s+(\d+)\s+(\d+)\s+\d+(?:.*inlined_at\s+(\d+)\s+(\d+))?")


@dataclass(frozen=True)
class Array:
    """A named piece of memory. data: its initial bytes, of .const and .global ones."""

    name: str
    space: str
    align: int
    size: int
    data: bytes


@dataclass(frozen=True)
class Statement:
    """kind: "scope" (text "{" or "}"), "label" or "statement". source: "file:line" of the CUDA source, or ""."""

    kind: str
    text: str
    source: str


@dataclass(frozen=True)
class Entry:
    """params: offset of each parameter. body: the statements in order."""

    symbol: str
    params: dict[str, int]
    params_bytes: int
    body: tuple[Statement, ...]


def type_bytes(name: str) -> int:
    """4 of "u32"; predicates too live in cells of 4 bytes."""
    if name == "pred":
        return 4
    match = re.fullmatch(r"b?[a-z](\d+)(?:x(\d))?", name)
    if not match:
        raise ValueError(f"no PTX type: {name}")
    return int(match[1]) * int(match[2] or 1) // 8


def parse_array(text: str) -> Array | None:
    """Of the declaration of a variable in memory; None for any other statement."""
    match = _ARRAY.match(text.strip().rstrip(";"))
    if not match:
        return None
    space, align, kind, name, count, values = match.groups()
    width = type_bytes(kind)
    size = width * int(count or (1 if count is None else 0))
    data = b"".join(int(v, 0).to_bytes(width, "little") for v in re.findall(r"\w+", values or ""))
    return Array(name, space, int(align or width), size, data.ljust(size, b"\0"))


def parse_arrays(text: str) -> list[Array]:
    """Those of the module's scope."""
    found = (parse_array(line) for line in text.splitlines() if not line.startswith("\t"))
    return [array for array in found if array]


def parse_entries(text: str) -> dict[str, Entry]:
    files = {int(n): name for n, name in re.findall(r'^\s*\.file\s+(\d+)\s+"([^"]+)"', text, re.M)}
    entries = {}
    for match in _ENTRY.finditer(text):
        header_end = text.index(")", match.end())
        begin = text.index("{", header_end)
        params, size = _layout(text[match.end() : header_end])
        body = tuple(_statements(text[begin : text.index("\n}", begin)], files))
        entries[match[1]] = Entry(match[1], params, size, body)
    return entries


def _layout(header: str) -> tuple[dict[str, int], int]:
    offsets, end = {}, 0
    for align, kind, name, count in _PARAM.findall(header):
        width = type_bytes(kind)
        end += -end % int(align or width)
        offsets[name] = end
        end += width * int(count or 1)
    return offsets, end


def _source(match: re.Match[str], files: dict[int, str]) -> str:
    # What was inlined is reported where it was called.
    file, line = (match[3], match[4]) if match[3] else (match[1], match[2])
    return f"{files.get(int(file), '?').rsplit('/', 1)[-1]}:{line}"


def _statements(text: str, files: dict[int, str]) -> Iterator[Statement]:
    source, pending = "", ""
    for line in text.splitlines():
        rest = line.split("//")[0].strip()
        if loc := _LOC.match(rest):
            source = _source(loc, files)
            continue
        while rest:
            if not pending and rest[0] in "{}":
                yield Statement("scope", rest[0], source)
                rest = rest[1:].lstrip()
            elif not pending and (label := _LABEL.match(rest)):
                yield Statement("label", label[1], source)
                rest = rest[label.end() :]
            elif ";" in rest:
                head, rest = rest.split(";", 1)
                yield Statement("statement", f"{pending} {head}".strip(), source)
                pending, rest = "", rest.lstrip()
            else:
                pending, rest = f"{pending} {rest}".strip(), ""
