"""Bugs that somebody could have written into the CUDA kernels. Both ways of running them must notice each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Compiles fewer attention kernels.
SMALL = ROOT / "tests/cuda/small"


@dataclass(frozen=True)
class Mutant:
    """In csrc/cuda/``file`` the one occurrence of ``old`` becomes ``new``. test: what must turn red."""

    name: str
    file: str
    old: str
    new: str
    test: str

    def overlay(self) -> Path:
        """A directory to be searched before csrc/, with the changed file."""
        text = (ROOT / "csrc/cuda" / self.file).read_text()
        if text.count(self.old) != 1:
            raise ValueError(f"mutant {self.name!r}: {self.old!r} occurs {text.count(self.old)} times in {self.file}")
        changed = text.replace(self.old, self.new)
        folder = ROOT / "build/mutants" / hashlib.sha256(changed.encode()).hexdigest()[:16]
        (folder / "cuda").mkdir(parents=True, exist_ok=True)
        (folder / "cuda" / self.file).write_text(changed)
        return folder


ATTENTION = "tests/ops/test_tree_attention.py -k bfloat16-(6,2)"
SINKS = "tests/ops/test_tree_attention.py -k test_sinks-bfloat16"
CONFLICTS = "tests/cuda/test_traffic.py -k conflicts"
TWICE = "tests/cuda/test_traffic.py -k twice"

TREE_ATTENTION = [
    Mutant(
        "operands of two neighbouring products exchanged",
        "tree_attention_rows.h",
        "multiply<T>(scores[i][n], q[i], k[0], k[1]);",
        "multiply<T>(scores[i][n], q[i], k[0], k[2]);",
        ATTENTION,
    ),
    Mutant(
        "values not transposed",
        "tree_attention_rows.h",
        "ptx::load_matrices_transposed(v,",
        "ptx::load_matrices(v,",
        ATTENTION,
    ),
    Mutant(
        "a row does not see its own token",
        "tree_attention_rows.h",
        "pos <= at && at - pos < window_",
        "pos < at && at - pos < window_",
        ATTENTION,
    ),
    Mutant("window longer by one", "tree_attention_rows.h", "at - pos < window_", "at - pos <= window_", SINKS),
    Mutant(
        "sums keep their old maximum in the lower rows",
        "tree_attention_rows.h",
        "acc.out[i][j][e] *= fade[e / 2];",
        "acc.out[i][j][e] *= fade[0];",
        ATTENTION,
    ),
    Mutant(
        "a total over two of four lanes",
        "tree_attention_rows.h",
        "        total[i][h] += __shfl_xor_sync(kAllLanes, total[i][h], 2);\n",
        "",
        ATTENTION,
    ),
    Mutant("swizzle left out", "tree_attention_config.h", "column_chunk % 8 ^ row % 8", "column_chunk % 8", CONFLICTS),
    Mutant(
        "copies waited for a tile late",
        "tree_attention_kernel.h",
        "    ptx::wait_copies<0>();\n    // The tile",
        "    ptx::wait_copies<1>();\n    // The tile",
        ATTENTION,
    ),
    Mutant(
        "no barrier between a tile and the next copy",
        "tree_attention_kernel.h",
        "before it.\n    __syncthreads();\n",
        "before it.\n    __syncwarp();\n",
        ATTENTION,
    ),
    Mutant(
        "pages of the first kv head for all",
        "tree_attention_keys.h",
        "int64_t(page_) * work_.p.kv_heads + place_.head : 0",
        "int64_t(page_) * work_.p.kv_heads : 0",
        ATTENTION,
    ),
    Mutant(
        "tokens that nobody sees are read",
        "tree_attention_keys.h",
        "const bool live = token >= 0 && column < row_bytes;",
        "const bool live = token >= -1 && column < row_bytes;",
        ATTENTION,
    ),
    Mutant(
        "the counter of a joined row is not set back",
        "tree_attention_join.h",
        "*counter(row) = 0;",
        "*counter(row) += 0;",
        TWICE,
    ),
    Mutant(
        "parts joined without their weights",
        "tree_attention_join.h",
        "fmaf(weight, element_of(values, e), sums[e] * fade)",
        "fmaf(fade, element_of(values, e), sums[e] * fade)",
        ATTENTION,
    ),
]
