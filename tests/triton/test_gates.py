"""What the compiler must make of every Triton kernel: no spills, wide loads, tensor cores. A row of CASES per gate.

To gate a new kernel, write a function that makes its arguments and calls the op, and add its row.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec

import pytest
import torch

from tts_kernels import _ext

if _ext.triton_interpreted():
    pytest.skip("needs the process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from tts_kernels.testing.compile import compile_only
from tts_kernels.testing.plans import Shape, random_case

# Shared memory that one program may ask for.
MAX_SHARED = {80: 163 * 1024, 90: 227 * 1024, 100: 227 * 1024, 120: 99 * 1024, "gfx942": 64 * 1024}
# Where spills fail the gate; the others must compile.
NO_SPILLS = (80, 90, 100)


@dataclass(frozen=True)
class Gate:
    """One launch that an op must make well.

    kernel: the launch's main kernel. wide: whether it must load 16 bytes at a time. tensor_core: whether it must use
    matrix instructions.
    """

    op: str
    run: Callable
    arguments: tuple
    kernel: str
    targets: tuple[int | str, ...] = (80, 90, 100)
    wide: bool = True
    tensor_core: bool = False

    def __str__(self) -> str:
        words = (str(x).removeprefix("torch.") for x in self.arguments)
        return "-".join((self.op, *words))


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def copy_pages(dtype, head_dim):
    k_pages, v_pages = torch.zeros(2, 2, 4, 2, 16, head_dim).to(dtype)
    launcher("copy_pages")(k_pages, v_pages, ints(0), ints(1))


def merge_states(dtype, head_dim):
    launcher("merge_states")(torch.zeros(3, 16, 8, head_dim, dtype=dtype), torch.zeros(3, 16, 8))


def write_kv(dtype, head_dim, stored):
    """k and v as a fused projection leaves them."""
    k, v = torch.zeros(32, 8, head_dim, dtype=dtype).split(4, dim=1)
    k_pages, v_pages = torch.zeros(2, 4, 4, 16, head_dim).to(stored)
    scales = torch.zeros(2, 4, 4) if stored in (torch.int8, torch.float8_e4m3fn) else (None, None)
    launcher("write_kv")(k, v, k_pages, v_pages, torch.arange(32, dtype=torch.int32), *scales)


def tree_attention(dtype, head_dim):
    shape = Shape(nodes=6, node_tokens=64, full=True, head_dim=head_dim, tile_rows=16)
    case = random_case(shape, dtype, "cpu")
    op("tree_attention")(case.q, case.k_pages, case.v_pages, case.plan, backend="triton")


def sample_children(dtype, vocab, distinct):
    rows = torch.zeros(4, vocab, dtype=dtype), torch.zeros(4, dtype=torch.int64), ints(1, 2, 3, 4), ints(1, 2, 1, 4)
    launcher("sample_children")(*rows, 8, 0.8, 20, 0.95, 0.0, distinct)


def score_steps(dtype, size):
    hidden, weight = torch.zeros(64, size, dtype=dtype), torch.zeros(2, size, dtype=dtype)
    steps = ints(3, 9, 20, 63), ints(0, 2, 4)
    launcher("score_steps")(hidden, *steps, weight, None, "softmax", 1, "min", None, None)


def select_children(rule):
    groups = ints(0, 16, 32), ints(4, 4), ints(16, 16)
    launcher("select_children")(torch.zeros(32), *groups, rule, 1.0)


def launcher(name):
    return getattr(import_module(f"tts_kernels.ops.{name}._triton"), name)


def op(name):
    return getattr(import_module(f"tts_kernels.ops.{name}"), name)


BF16, FP16, FP8 = torch.bfloat16, torch.float16, torch.float8_e4m3fn
EVERY = (80, 90, 100, 120, "gfx942")
ATTENTION = {"kernel": "_tree_attention_kernel", "tensor_core": True}
CASES = [
    Gate("copy_pages", copy_pages, (BF16, 128), "_copy_pages_kernel", EVERY),
    Gate("copy_pages", copy_pages, (torch.int8, 64), "_copy_pages_kernel"),
    Gate("merge_states", merge_states, (BF16, 128), "_merge_states_kernel", EVERY),
    Gate("merge_states", merge_states, (torch.float32, 64), "_merge_states_kernel"),
    Gate("write_kv", write_kv, (BF16, 128, BF16), "_write_kv_kernel", EVERY),
    Gate("write_kv", write_kv, (BF16, 128, torch.int8), "_write_8_bit_kernel", EVERY),
    Gate("write_kv", write_kv, (FP16, 64, FP8), "_write_8_bit_kernel", (90, 100, 120)),
    Gate("tree_attention", tree_attention, (BF16, 128), targets=EVERY, **ATTENTION),
    Gate("tree_attention", tree_attention, (FP16, 64), targets=(80, 90), **ATTENTION),
    Gate("sample_children", sample_children, (BF16, 32768, True), "_stats_kernel"),
    Gate("sample_children", sample_children, (torch.float32, 32768, False), "_stats_kernel"),
    Gate("score_steps", score_steps, (BF16, 1536), "_score_steps_kernel", (80, 90, 100, "gfx942")),
    Gate("select_children", select_children, ("rebase",), "_select_children_kernel", wide=False),
]


PARAMS = [pytest.param(gate, target, id=f"{gate}-{target}") for gate in CASES for target in gate.targets]


@pytest.mark.parametrize(("gate", "target"), PARAMS)
def test_gate(gate, target, monkeypatch):
    if find_spec(f"tts_kernels.ops.{gate.op}._triton") is None:
        pytest.skip(f"{gate.op} has no triton kernel in this version")
    # An op that is called whole goes through its dispatch, which knows no way to run a kernel without launching it.
    monkeypatch.setattr(_ext, "why_not_triton", lambda device_type: None)
    with compile_only(target) as kernels:
        gate.run(*gate.arguments)
    for kernel in kernels:
        assert kernel.shared <= MAX_SHARED[target], kernel.kernel
        if target in NO_SPILLS:
            assert (kernel.spills, kernel.spill_bytes) == (0, 0), kernel.kernel
    (main,) = (kernel for kernel in kernels if kernel.kernel == gate.kernel)
    assert not gate.wide or main.wide_loads > 0
    assert (main.tensor_core > 0) == gate.tensor_core


def test_every_kernel_has_a_gate():
    from tts_kernels.backends import OPS

    missing = [name for name in OPS if find_spec(f"tts_kernels.ops.{name}._triton") is not None]
    assert not set(missing) - {gate.op for gate in CASES}
