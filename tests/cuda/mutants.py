"""Bugs that somebody could have written into the CUDA kernels. Both ways of running them must notice each."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Compiles fewer attention kernels.
SMALL = ROOT / "tests/cuda/small"
# Before the other, the same multiplied by warpgroups. The interpreter of PTX does not know their products.
SMALL_HOPPER = ROOT / "tests/cuda/small_hopper"


@dataclass(frozen=True)
class Mutant:
    """In csrc/cuda/``file`` the one occurrence of ``old`` becomes ``new``. test: what must turn red.

    always: tried by make test, the others by make mutants. warpgroups: in the kernels for 9.0, which the interpreter of
    PTX does not know.
    """

    name: str
    file: str
    old: str
    new: str
    test: tuple[str, str]
    always: bool = False
    warpgroups: bool = False

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


# A test file and which of its tests.
ATTENTION = "tests/ops/test_tree_attention.py", "test_heads and bfloat16"
SINKS = "tests/ops/test_tree_attention.py", "test_sinks and bfloat16"
CONFLICTS = "tests/cuda/test_cuda_traffic.py", "conflicts and 64-"
TWICE = "tests/cuda/test_cuda_traffic.py", "twice"

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
    Mutant(
        "window longer by one",
        "tree_attention_rows.h",
        "at - pos < window_",
        "at - pos <= window_",
        SINKS,
    ),
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
        always=True,
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

OTHERS = [
    Mutant(
        "the last word of a page is left out",
        "copy_pages.cu",
        "word < words; word += stride)",
        "word + 1 < words; word += stride)",
        ("tests/ops/test_copy_pages.py", "copies_the_pages"),
    ),
    Mutant(
        "a part without keys spoils the row: zero times NaN",
        "merge_states.cu",
        "if (!(weight > 0.0f)) continue;",
        "",
        ("tests/ops/test_merge_states.py", "matches_oracle"),
    ),
    Mutant(
        "older tokens of a page are taken for multiples of the new scale",
        "write_kv_8_bit.h",
        "Codec::decode(tokens[i]) * old, scale)",
        "Codec::decode(tokens[i]) * scale, scale)",
        ("tests/ops/test_write_kv.py", "8_bit_pages_equal"),
    ),
    Mutant(
        "missing barrier: sums of the next classes overwrite those that thread 0 reads",
        "score_steps.cu",
        "      // Thread 0 has read the sums before.\n      __syncthreads();\n",
        "",
        ("tests/ops/test_score_steps.py", ""),
        always=True,
    ),
    Mutant(
        "a whole share that rounding lifted becomes the next",
        "select_children_group.h",
        "constexpr double kBelowRounding = 1.0 - 1e-12;",
        "constexpr double kBelowRounding = 1.0;",
        ("tests/ops/test_select_children.py", "brute_force"),
    ),
    Mutant(
        "race: the thread that found the bin overwrites what the others still read",
        "sample_children_cut.h",
        "if (level > 0) return needed;",
        "if (level > 0) return shared.need;",
        ("tests/ops/test_sample_children.py", "hard_rows or shapes"),
    ),
    Mutant(
        "wrong Philox counter: noise from the words of independent draws",
        "sample_children_order.h",
        "uint32_t(token / 4), kNoise, 0}",
        "uint32_t(token / 4), kDraw, 0}",
        ("tests/ops/test_sample_children.py", "shapes_and_dtypes"),
        always=True,
    ),
    Mutant(
        "the last tie of a cut is left out",
        "sample_children_row.h",
        "x == value && token <= last",
        "x == value && token < last",
        ("tests/ops/test_sample_children.py", "hard_rows"),
    ),
    Mutant(
        "a thread that gave all it held away is not asked for more",
        "sample_children_order.h",
        "shared.again = may_know_more && held.is_empty();",
        "shared.again = false;",
        ("tests/ops/test_sample_children.py", "far_apart"),
    ),
    Mutant(
        "wrong Philox counter: the second four tokens of a vector get the bound of the first",
        "sample_children_order.h",
        "uint32_t((at + four) / 4), kNoise, 0}",
        "uint32_t(at / 4), kNoise, 0}",
        ("tests/ops/test_sample_children.py", "flat_row"),
    ),
]

HOPPER = [
    Mutant(
        "descriptors step over 16 rows instead of 8",
        "tree_attention_warpgroup.h",
        "kEightRows = 8 * SharedTile::kLineBytes / 16",
        "kEightRows = 16 * SharedTile::kLineBytes / 16",
        ATTENTION,
        warpgroups=True,
    ),
    Mutant(
        "copies not published to products of warpgroups",
        "tree_attention_kernel.h",
        "    if (Config::kWarpgroups) ptx::publish_to_products();\n    // It is",
        "    // It is",
        ATTENTION,
        warpgroups=True,
        always=True,
    ),
]

MUTANTS = [*TREE_ATTENTION, *OTHERS, *HOPPER]
