"""What a GPU would run: Triton kernels compiled for a target on a machine without one, and counted.

    with compile_only(90) as kernels:
        launcher(*cpu_tensors)
    assert kernels[0].spills == 0

Must run in a process without TRITON_INTERPRET. The assembler and disassembler come in Triton's wheel.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime.jit import JITFunction

_NVIDIA = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# An instruction line of nvdisasm: /*0000*/ @!P0 LDG.E.128 R4, [R2] ;
_SASS = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T0-9]+\s+)?([A-Z][A-Z0-9_.]+)", re.M)
_AMDGCN = re.compile(r"^\t([a-z][a-z0-9_]+)\b(?!:)", re.M)
_TENSOR_CORE = re.compile(r"[HIQDO]G?MMA|UTC[A-Z]*MMA|v_s?w?mf?ma[a-z]*_.*")
_WIDE = {"128", "256"}
_AMD_WIDE = re.compile(r"(global|buffer|flat)_(load|store)_(dwordx4|b128)")


@dataclass(frozen=True, eq=False)
class Compiled:
    """One kernel as one launch would have started it.

    target: 80, 90, ... (CUDA compute capability) or "gfx942". constants: the constexprs by name. shared: bytes of
    shared memory per program. asm: the compiler's stages by name.
    """

    kernel: str
    target: int | str
    num_warps: int
    constants: dict[str, Any]
    shared: int
    asm: Mapping[str, Any]

    @property
    def ttir(self) -> str:
        return self.asm["ttir"]

    @property
    def ttgir(self) -> str:
        return self.asm["ttgir"]

    @cached_property
    def assembly(self) -> str:
        """SASS, or the assembly text of an AMD GPU."""
        return _tool("nvdisasm", "-c", cubin=self.asm["cubin"]) if self._nvidia else self.asm["amdgcn"]

    @cached_property
    def instructions(self) -> Counter[str]:
        """How often each instruction, with its modifiers, occurs in the code (not how often it runs)."""
        return Counter((_SASS if self._nvidia else _AMDGCN).findall(self.assembly))

    @property
    def registers(self) -> int:
        """Vector registers per thread."""
        return self._resource("REG", "vgpr_count")

    @property
    def spill_bytes(self) -> int:
        """Bytes of local memory per thread; our kernels have no local arrays, so all of it is spilled registers."""
        return self._resource("STACK", "private_segment_fixed_size")

    @property
    def spills(self) -> int:
        """Instructions that load from or store to local memory."""
        return self._count(lambda op: op.split(".")[0] in ("LDL", "STL") or op.startswith("scratch_"))

    @property
    def wide_loads(self) -> int:
        """Loads of 16 bytes or more per thread from global memory, asynchronous copies included."""
        return self._wide(("LDG", "LDGSTS", "UTMALDG", "UBLKCP"), "load")

    @property
    def wide_stores(self) -> int:
        """Stores of 16 bytes or more per thread to global memory."""
        return self._wide(("STG", "UTMASTG"), "store")

    @property
    def async_copies(self) -> int:
        """Copies from global to shared memory that pass no register."""
        if not self._nvidia:
            return len(re.findall(r"^\t(?:global|buffer)_load_.*\blds\b", self.assembly, re.M))
        return self._count(lambda op: op.split(".")[0] in ("LDGSTS", "UTMALDG", "UBLKCP"))

    @property
    def tensor_core(self) -> int:
        """Matrix instructions."""
        return self._count(lambda op: _TENSOR_CORE.fullmatch(op.split(".")[0]) is not None)

    @property
    def _nvidia(self) -> bool:
        return isinstance(self.target, int)

    @cached_property
    def _usage(self) -> str:
        return _tool("cuobjdump", "--dump-resource-usage", cubin=self.asm["cubin"]) if self._nvidia else self.assembly

    def _resource(self, nvidia: str, amd: str) -> int:
        found = re.search(rf"\b{nvidia}:(\d+)" if self._nvidia else rf"\.{amd}:\s+(\d+)", self._usage)
        if found is None:
            raise ValueError(f"{self.kernel}: the tools tell no {nvidia if self._nvidia else amd}")
        return int(found[1])

    def _count(self, wanted: Any) -> int:
        return sum(count for op, count in self.instructions.items() if wanted(op))

    def _wide(self, names: tuple[str, ...], amd: str) -> int:
        if not self._nvidia:
            return self._count(lambda op: (m := _AMD_WIDE.match(op)) is not None and m[2] == amd)
        bulk = ("UTMALDG", "UTMASTG", "UBLKCP")
        return self._count(lambda op: (p := op.split("."))[0] in names and (p[0] in bulk or bool(_WIDE & set(p))))


def _tool(name: str, *options: str, cubin: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        command = [str(_NVIDIA / name), *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


class _NoDevice(DriverBase):
    """Stands in for a driver as far as compiling goes."""

    def __init__(self, target: GPUTarget) -> None:
        self.target = target

    @classmethod
    def is_active(cls) -> bool:
        return True

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        # Triton keeps compiled kernels by device: one per target.
        return str(self.target)

    def get_current_stream(self, device: str) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def map_python_to_cpp_type(self, ty: str) -> str:
        raise NotImplementedError

    def get_benchmarker(self) -> Any:
        raise RuntimeError("nothing runs under compile_only: give the kernel one configuration")


def _gpu_target(target: int | str) -> GPUTarget:
    return GPUTarget("cuda", target, 32) if isinstance(target, int) else GPUTarget("hip", target, 64)


@contextmanager
def compile_only(target: int | str) -> Iterator[list[Compiled]]:
    """Compile every Triton kernel that would be launched inside, and launch none.

    target: 80, 90, 100, 120 (CUDA compute capability) or an AMD architecture such as "gfx942". The kernels appear in
    the list in the order of their launches, specialised as a launch on tensors at these addresses and with these
    integers would be. What they would have written stays as it was.
    """
    if triton.knobs.runtime.interpret:
        raise RuntimeError("compile_only: this process interprets kernels (TRITON_INTERPRET=1)")
    kernels: list[Compiled] = []
    run = JITFunction.run

    def compile_instead(function: JITFunction, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> Any:
        made = run(function, *args, grid=grid, warmup=True, **kwargs)
        names = {(number,): name for number, name in enumerate(function.arg_names)}
        constants = {names[path]: value for path, value in made.src.constants.items() if path in names}
        meta = made.metadata
        kernels.append(Compiled(meta.name, target, meta.num_warps, constants, meta.shared, dict(made.asm)))
        return made

    with (
        patch.object(triton.runtime.driver, "_active", _NoDevice(_gpu_target(target))),
        patch.object(JITFunction, "run", compile_instead),
    ):
        yield kernels
