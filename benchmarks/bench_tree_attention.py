"""tree_attention on the CPU against torch's attention over KV that every row has to itself:
pytest benchmarks/bench_tree_attention.py.

The plan is made once per fork or prune and not per call, so it is not timed here (bench_plan.py). Bytes are those of
the KV, each stored token once; torch gets its copies for nothing, int8 KV as bfloat16.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from op_rows import Case, expect_as_exact
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tts_kernels.ops.tree_attention import _reference, tree_attention
from tts_kernels.ops.tree_attention._options import Options
from tts_kernels.ops.tree_attention._reference import visible_tokens
from tts_kernels.plan import Plan, make_plan
from tts_kernels.processors import AttentionShape
from tts_kernels.testing import peaky
from tts_kernels.testing.trees import TreeShape, balanced

PAGE_SIZE = 16
# So many are drawn, and repeated in random order.
DRAWN_PAGES = 256
SMOLLM2, LLAMA, NARROW = (9, 3, 64), (32, 8, 128), (8, 2, 64)
FLOATS = (torch.float32, torch.bfloat16, torch.float16)
ALL = (*FLOATS, torch.int8)


@dataclass(frozen=True)
class Shape:
    words: str
    tree: TreeShape
    heads: tuple[int, int, int]
    dtypes: tuple[torch.dtype, ...] = FLOATS[:2]

    def __str__(self) -> str:
        q_heads, kv_heads, head_dim = self.heads
        return f"{self.words}, {q_heads}/{kv_heads} heads of {head_dim}"


ROWS_32 = balanced((1, 32), (1024, 32))
LEVELS = balanced((1, 4, 32, 256), (512, 64, 64, 32))
ROWS_64 = balanced((1, 64), (2048, 1))
UNSHARED = balanced((32,), (4096,))
SHAPES = (
    Shape("32 rows, 1,024 shared + 32 own", ROWS_32, SMOLLM2, ALL),
    Shape("32 rows, 1,024 shared + 32 own", ROWS_32, LLAMA),
    Shape("64 rows, 2,048 shared", ROWS_64, LLAMA, ALL),
    Shape("64 rows, 2,048 shared", ROWS_64, NARROW, ALL),
    Shape("256 rows, 4 levels", LEVELS, SMOLLM2),
    Shape("1 row, 8,192", balanced((1,), (8192,)), SMOLLM2),
    Shape("32 rows, 4,096 own", UNSHARED, LLAMA, ALL),
    Shape("32 rows, 4,096 own", UNSHARED, SMOLLM2),
)


@dataclass(frozen=True)
class Problem:
    """Arguments of ``tree_attention``. ``scales``: of int8 pages."""

    plan: Plan
    q: Tensor
    k: Tensor
    v: Tensor
    scales: Tensor | None

    @property
    def options(self) -> dict[str, Tensor]:
        return {} if self.scales is None else {"k_scales": self.scales, "v_scales": self.scales}

    def run(self, backend: str) -> Tensor:
        return tree_attention(self.q, self.k, self.v, self.plan, **self.options, backend=backend)  # type: ignore

    def oracle(self) -> Tensor:
        """The reference on float64 queries, which makes float64 of the keys it reads, row by row."""
        options = Options(self.q.shape[-1] ** -0.5, 0.0, 0, None, self.scales, self.scales)
        return _reference.tree_attention(self.q.double(), self.k, self.v, self.plan, options)[0]

    def unshared(self, pages: Tensor) -> Tensor:
        """[N, Hkv, T, D]: each row's path, gathered as decoding without sharing would store it."""
        tokens = torch.stack([t.sort().values for t in visible_tokens(self.plan, window=0)])
        page, offset = tokens // PAGE_SIZE, tokens % PAGE_SIZE
        values = pages[page, :, offset].to(self.q.dtype)
        if self.scales is not None:
            values *= self.scales[page][..., None].to(values.dtype)
        return values.transpose(1, 2).contiguous()


def make_problem(shape: Shape, dtype: torch.dtype) -> Problem:
    q_heads, kv_heads, head_dim = shape.heads
    forest, leaves = shape.tree.grow(PAGE_SIZE)
    compute = torch.bfloat16 if dtype == torch.int8 else dtype
    heads = AttentionShape(q_heads, kv_heads, head_dim, compute)
    plan = make_plan(forest, leaves, np.ones(len(leaves), np.int32), shape=heads)
    generator = torch.Generator().manual_seed(0)
    count, scales = int(plan.pages.max()) + 1, None
    drawn = DRAWN_PAGES, kv_heads, PAGE_SIZE, head_dim
    if dtype == torch.int8:
        k, v = (torch.randint(-127, 128, drawn, generator=generator, dtype=torch.int8) for _ in "kv")
        scales = 0.01 + 0.01 * torch.rand(count, kv_heads, generator=generator)
    else:
        k, v = (peaky(*drawn, generator=generator, dtype=dtype) for _ in "kv")
    k, v = (pages[torch.randint(DRAWN_PAGES, (count,), generator=generator)] for pages in (k, v))
    q = peaky(len(leaves), q_heads, head_dim, generator=generator, dtype=compute)
    return Problem(plan, q, k, v, scales)


def work(shape: Shape, dtype: torch.dtype, problem: Problem) -> tuple[float, float]:
    """Floating-point operations, and bytes of every stored token once."""
    q_heads, kv_heads, head_dim = shape.heads
    seen = int((problem.plan.row_pos + 1).sum())
    stored = sum(shape.tree.tokens)
    return 4.0 * head_dim * q_heads * seen, 2.0 * stored * kv_heads * head_dim * dtype.itemsize


CASES = [pytest.param(shape, dtype, id=f"{shape}, {dtype}") for shape in SHAPES for dtype in shape.dtypes]


@pytest.mark.parametrize(("shape", "dtype"), CASES)
def test_tree_attention(measure, shape, dtype):
    problem = make_problem(shape, dtype)
    expect_as_exact(problem.run("native"), problem.oracle(), problem.run("reference"))
    own_k, own_v = problem.unshared(problem.k), problem.unshared(problem.v)
    queries = problem.q[:, :, None]
    flops, nbytes = work(shape, dtype, problem)
    measure(
        Case("tree_attention", str(shape), dtype, flops, nbytes),
        {
            "native": lambda: problem.run("native"),
            "sdpa": lambda: scaled_dot_product_attention(queries, own_k, own_v, enable_gqa=True),
            "reference": lambda: problem.run("reference"),
        },
    )
