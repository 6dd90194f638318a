"""What nvcc makes of the CUDA kernels for each target: registers, spills, wide copies, tensor cores, occupancy.

    python tests/cuda/gates.py          compile the kernels for all targets, compare with gates.csv
    python tests/cuda/gates.py --write  renew gates.csv, show the occupancy

A kernel may not spill, nor take more registers than gates.csv says, nor lose a kind of instruction that it has there.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from ptx.build import ROOT, with_includes

HERE = Path(__file__).resolve().parent
TABLE = HERE / "gates.csv"
SOURCES = sorted(set((ROOT / "csrc/cuda").glob("*.cu")) - {ROOT / "csrc/cuda/device.cu"})
_NVCC = ["nvcc", "-cubin", "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", "-Xptxas", "-v"]
_SECTION = re.compile(r"^//-+ (\S+)", re.M)
_SASS = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P[T0-9]+\s+)?([A-Z][A-Z0-9_.]+)", re.M)
_KINDS = {
    "async_copies": r"LDGSTS\..*128",
    "matrix_loads": r"LDSM\b",
    "multiplies": r"HG?MMA\b",
    "wide_loads": r"LDG\..*128",
    "wide_stores": r"STG\..*128",
}


@dataclass(frozen=True)
class Limits:
    """Of a multiprocessor: what its blocks share. Registers: 65536, given to warps by 256."""

    warps: int
    blocks: int
    shared_bytes: int


# CUDA C++ Programming Guide, "Technical Specifications per Compute Capability". A block takes 1 KB of shared memory
# besides its own.
TARGETS = {
    "80": Limits(64, 32, 164 * 1024),
    "86": Limits(48, 16, 100 * 1024),
    "89": Limits(48, 24, 100 * 1024),
    "90": Limits(64, 32, 228 * 1024),
    "90a": Limits(64, 32, 228 * 1024),
    "100": Limits(64, 32, 228 * 1024),
    "120": Limits(48, 24, 100 * 1024),
}


@dataclass(frozen=True)
class Gate:
    """One kernel for one target. threads: the most that a block may have. spills: bytes stored and loaded.

    The kinds of instructions are counted in the code: 16-byte cp.async, ldmatrix, mma, 16-byte loads and stores.
    """

    kernel: str
    target: str
    threads: int
    registers: int
    spills: int
    local: int
    static_shared: int
    async_copies: int
    matrix_loads: int
    multiplies: int
    wide_loads: int
    wide_stores: int

    def blocks(self, shared_bytes: int = 0) -> int:
        """How many blocks with so much dynamic shared memory fit a multiprocessor."""
        limits = TARGETS[self.target]
        warps = -(-self.threads // 32)
        warp_registers = -(-self.registers * 32 // 256) * 256
        # Each of the four parts of a multiprocessor has its own registers.
        by_registers = 65536 // 4 // warp_registers * 4 // warps
        by_shared = limits.shared_bytes // (shared_bytes + self.static_shared + 1024)
        return min(limits.blocks, limits.warps // warps, by_registers, by_shared)

    def compare(self, row: Gate | None) -> list[str]:
        """What is wrong with this kernel; row: its line of the table."""
        name = f"{self.kernel} for {self.target}"
        if row is None:
            return [f"{name}: not in {TABLE.name}; python tests/cuda/gates.py --write"]
        wrong = (
            [f"{name}: {self.spills} bytes spilled, {self.local} local accesses"] if self.spills or self.local else []
        )
        if self.registers > row.registers:
            wrong.append(f"{name}: {self.registers} registers, {TABLE.name} allows {row.registers}")
        if self.threads != row.threads or self.static_shared != row.static_shared:
            wrong.append(f"{name}: threads or static shared memory differ from {TABLE.name}")
        lost = [kind for kind in _KINDS if getattr(row, kind) and not getattr(self, kind)]
        return wrong + [f"{name}: {kind.replace('_', ' ')} are gone" for kind in lost]


def is_gated(source: Path, target: str) -> bool:
    """float16 differs from bfloat16 in the names of instructions: two targets are enough for its attention."""
    return source.stem != "tree_attention_float16" or target in ("80", "90a")


def compile_gates(source: Path, target: str) -> list[Gate]:
    """The kernels of a source, as nvcc compiles them; kept under build/gates until a source changes."""
    digest = hashlib.sha256(f"{_NVCC} {target} {fields(Gate)} {_KINDS}".encode())
    for path in with_includes(source):
        digest.update(path.read_bytes())
    made = ROOT / "build/gates" / f"{source.stem}-{target}-{digest.hexdigest()[:16]}.json"
    if not made.exists():
        made.parent.mkdir(parents=True, exist_ok=True)
        cubin = made.with_suffix(".cubin")
        # As setup.py builds for 90a: with products of warpgroups.
        macros = ["-DTTS_HOPPER"] if target == "90a" else []
        command = [*_NVCC, *macros, f"-arch=sm_{target}", str(source), "-o", str(cubin)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
        gates = list(_read(done.stderr, _disassemble(cubin), target))
        cubin.unlink()
        made.write_text(json.dumps([asdict(gate) for gate in gates]))
    return [Gate(**gate) for gate in json.loads(made.read_text())]


def _disassemble(cubin: Path) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin/nvdisasm"
    return subprocess.run([str(tool), str(cubin)], capture_output=True, text=True, check=True).stdout


def _read(report: str, assembly: str, target: str) -> Iterator[Gate]:
    """report: of ptxas -v; assembly: of nvdisasm, all sections."""
    parts = _SECTION.split(assembly)
    sections = dict(zip(parts[1::2], parts[2::2], strict=True))
    for entry in report.split("Compiling entry function '")[1:]:
        symbol = entry.split("'")[0]
        numbers = {
            name: int(match[1]) if (match := re.search(pattern, entry)) else 0
            for name, pattern in (
                ("registers", r"Used (\d+) registers"),
                ("stores", r"(\d+) bytes spill stores"),
                ("loads", r"(\d+) bytes spill loads"),
                ("shared", r"(\d+) bytes smem"),
            )
        }
        threads = re.search(r"EIATTR_MAX_THREADS.*?\.word\s+(0x[0-9a-f]+)", sections[f".nv.info.{symbol}"], re.S)
        sass = Counter(_SASS.findall(sections[f".text.{symbol}"]))
        kinds = {
            kind: sum(n for name, n in sass.items() if re.match(pattern, name)) for kind, pattern in _KINDS.items()
        }
        yield Gate(
            kernel=_demangled(symbol),
            target=target,
            threads=int(threads[1], 16) if threads else 1024,
            registers=numbers["registers"],
            spills=numbers["stores"] + numbers["loads"],
            local=sum(n for name, n in sass.items() if re.match(r"LDL|STL", name)),
            static_shared=numbers["shared"],
            **kinds,
        )


def _demangled(symbol: str) -> str:
    """merge_states_kernel<float> of its symbol."""
    name = subprocess.run(["c++filt", symbol], capture_output=True, text=True, check=True).stdout.strip()
    without_arguments = re.sub(r"\([^()]*\)$", "", name.removeprefix("void "))
    return without_arguments.replace("tts::cuda::", "").replace("tts::", "").replace(" >", ">")


def read_table() -> dict[tuple[str, str], Gate]:
    texts = ("kernel", "target")
    with TABLE.open() as lines:
        rows = [Gate(**{k: v if k in texts else int(v) for k, v in row.items()}) for row in csv.DictReader(lines)]
    return {(row.kernel, row.target): row for row in rows}


def write_table(gates: Iterable[Gate]) -> None:
    with TABLE.open("w") as lines:
        writer = csv.DictWriter(lines, [field.name for field in fields(Gate)], lineterminator="\n")
        writer.writeheader()
        writer.writerows(asdict(gate) for gate in sorted(gates, key=lambda gate: (gate.kernel, gate.target)))


def check(gates: Iterable[Gate]) -> list[str]:
    table = read_table()
    return [wrong for gate in gates for wrong in gate.compare(table.get((gate.kernel, gate.target)))]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="renew gates.csv")
    options = parser.parse_args()
    pairs = [(source, target) for target in TARGETS for source in SOURCES if is_gated(source, target)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        gates = [gate for found in pool.map(lambda pair: compile_gates(*pair), pairs) for gate in found]
    if options.write:
        write_table(gates)
    for gate in gates:
        blocks = gate.blocks()
        occupancy = f"{blocks} blocks, {blocks * -(-gate.threads // 32)} warps by registers"
        print(f"{gate.target:4} {gate.registers:4} registers {occupancy:32} {gate.kernel}")
    wrong = check(gates)
    print("\n".join(wrong))
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
