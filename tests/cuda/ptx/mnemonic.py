"""The name of an instruction with its modifiers and types, as fields of a decoded instruction."""

from __future__ import annotations

import functools
import re

from .layout import enumerators
from .parse import type_bytes

OPS, TYPES, VARIANTS = enumerators("Op"), enumerators("Type"), enumerators("Variant")
COMBINES, SPACES, MODIFIERS = enumerators("Combine"), enumerators("Space"), enumerators("Modifier")

# Modifiers without a meaning here: there is one device, its memory is always coherent, and .sync is every such op's.
_IGNORED = frozenset(
    {"sync", "aligned", "uni", "gpu", "cta", "sys", "gl", "sc", "acq_rel", "acquire", "release", "relaxed", "volatile"}
    | {"weak", "cg", "ca", "cs", "lu", "cv", "nc", "m8n8", "row", "col", "m16n8k16"}
)
_RENAMED = {"bar.sync": "bar", "barrier.sync": "bar", "bar.warp": "barwarp", "bar.red": "barred",
            "cp.async": "copy", "brx.idx": "brx"}  # fmt: skip
_WITH_VARIANT = {"setp", "atom", "red", "redux", "shfl", "vote", "match", "barred", "shf", "testp", "prmt"}


@functools.cache
def read_mnemonic(mnemonic: str) -> tuple[str, dict[str, int]]:
    """The op's name and the fields that follow from the mnemonic, besides bytes and source_bytes: of the types."""
    fields = {"count": 1, "modifiers": 0}
    name, types = _parts(mnemonic, fields)
    fields["op"] = OPS[name]
    fields["type"] = TYPES[types[0]] if types else 0
    fields["source_type"] = TYPES[types[1]] if len(types) > 1 else fields["type"]
    fields["bytes"] = type_bytes(types[0]) if types else 0
    fields["source_bytes"] = type_bytes(types[1]) if len(types) > 1 else fields["bytes"]
    return name, fields


def _parts(mnemonic: str, fields: dict[str, int]) -> tuple[str, list[str]]:
    """Name and types; everything else goes to the fields."""
    if mnemonic == "cp.async.commit_group":
        return "commit", []
    if mnemonic in ("cp.async.wait_group", "cp.async.wait_all"):
        fields["modifiers"] = int(mnemonic.endswith("all")) << MODIFIERS["allgroups"]
        return "wait", []
    name, *parts = mnemonic.split(".")
    if parts and f"{name}.{parts[0]}" in _RENAMED:
        name = _RENAMED[f"{name}.{parts.pop(0)}"]
    if name not in OPS:
        raise KeyError(name)
    types = [part for part in parts if part in TYPES and part != "none"]
    for part in parts:
        if part not in types:
            _enter(name, part, fields)
    return name, types


def _enter(op: str, part: str, fields: dict[str, int]) -> None:
    if op == "setp" and part in COMBINES:
        fields["combine"] = COMBINES[part]
    elif op in _WITH_VARIANT and part in VARIANTS:
        fields["variant"] = VARIANTS[part]
    elif part in SPACES or part == "shared::cta":
        fields.setdefault("space", SPACES[part.split(":")[0]])
    elif re.fullmatch(r"[vx][124]", part):
        fields["count"] = int(part[1])
    elif part == "m16n8k8":
        fields["modifiers"] |= 1 << MODIFIERS["k8"]
    elif part.lower() in MODIFIERS:
        fields["modifiers"] |= 1 << MODIFIERS[part.lower()]
    elif part not in _IGNORED and not re.match(r"L[12](::|$)", part):
        raise KeyError(part)
