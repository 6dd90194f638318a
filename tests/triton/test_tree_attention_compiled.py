"""What the compiler makes of the kernel of tree_attention."""

import re
from dataclasses import replace

import pytest
import torch

from tts_kernels import _ext

if _ext.triton_interpreted():
    pytest.skip("needs the process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")

from tts_kernels.ops.tree_attention._options import Options
from tts_kernels.ops.tree_attention._triton import tree_attention
from tts_kernels.testing.compile import compile_only
from tts_kernels.testing.plans import Shape, random_case

# Tallest tile and limits of shared memory.
WIDE = {80: 128, 90: 256, 100: 128, 120: 128}
SHARED = {80: 163, 90: 227, 100: 227, 120: 99}


def compiled(target, dtype=torch.bfloat16, unit_rows=1000, sinks=True, stored=None, window=0, softcap=0.0, **shape):
    """The kernel for units of up to ``unit_rows`` rows."""
    case = random_case(Shape(**shape), dtype, "cpu", stored=stored)
    options = Options(
        1.0, softcap, window, torch.zeros(case.q.shape[1]) if sinks else None, case.k_scales, case.v_scales
    )
    with compile_only(target) as kernels:
        tree_attention(case.q, case.k_pages, case.v_pages, replace(case.plan, max_unit_rows=unit_rows), options)
    (kernel,) = kernels
    return kernel


def copies_in_flight(kernel):
    """How many of the copies issued may be under way where the loop waits for one."""
    return max(int(number) for number in re.findall(r"async_wait .*?num = (\d+)", kernel.ttgir))


@pytest.fixture(scope="module", params=WIDE, ids=str)
def tall(request):
    """The variant that has everything: all classes of tiles, joins, sinks."""
    return compiled(request.param, head_dim=128)


def test_no_register_is_spilled(tall):
    assert tall.constants["WIDE"] == WIDE[tall.target]
    assert tall.spills == tall.spill_bytes == 0
    assert tall.registers * 32 * tall.num_warps <= 65536
    assert tall.shared <= SHARED[tall.target] * 1024


def test_tensor_cores_and_wide_copies(tall):
    assert tall.tensor_core > 0
    assert tall.wide_loads > 0
    assert tall.wide_stores > 0
    # K and V go to shared memory 16 bytes at a time, without passing registers, ahead of their use.
    copies = {op: n for op, n in tall.instructions.items() if op.startswith("LDGSTS")}
    wide = sum(n for op, n in copies.items() if "128" in op.split("."))
    assert wide >= 24
    assert copies_in_flight(tall) > 0


def test_parts_are_published(tall):
    """A barrier between the stores of the parts and the releasing atomic, one between the acquiring and the loads."""
    atomics = [m.start() for m in re.finditer(r"atom\.global\.gpu\.acq_rel", tall.asm["ptx"])]
    assert atomics
    text = tall.asm["ttgir"]
    release = text.index("acq_rel")
    before, after = text[:release], text[release:]
    stored = before.rindex("tt.store")
    assert "barrier" in before[stored:]
    assert "barrier" in after[: after.index("cacheModifier = cg")]


def test_decode_of_few_rows_keeps_many_programs_on_a_processor():
    """Units of one row: one class of tile, registers and shared memory for two programs and more."""
    kernel = compiled(90, unit_rows=1, head_dim=128)
    assert (kernel.constants["WIDE"], kernel.num_warps, kernel.spills) == (16, 4, 0)
    assert kernel.registers <= 168
    assert kernel.shared <= 113 * 1024


@pytest.mark.parametrize("target", [80, 90])
def test_one_class_for_invariant_plans(target):
    case = random_case(Shape(head_dim=64), torch.float16, "cpu")
    plan = replace(case.plan, invariant=True, max_unit_rows=1)
    with compile_only(target) as (kernels):
        tree_attention(case.q, case.k_pages, case.v_pages, plan, Options(1.0, 0.0, 0, None, None, None))
    assert (kernels[0].constants["NARROW"], kernels[0].constants["WIDE"], kernels[0].spills) == (64, 64, 0)


@pytest.mark.parametrize(
    ("target", "case"),
    [
        (80, {"head_dim": 256}),
        (120, {"head_dim": 256}),
        (90, {"head_dim": 256}),
        (90, {"head_dim": 80, "window": 100, "softcap": 30.0}),
        (90, {"head_dim": 64, "q_heads": 14}),
        (80, {"head_dim": 128, "dtype": torch.float32}),
        (90, {"head_dim": 128, "dtype": torch.float32}),
        (90, {"head_dim": 128, "stored": torch.float8_e4m3fn, "unit_rows": 16}),
        (80, {"head_dim": 128, "stored": torch.int8, "unit_rows": 16}),
    ],
    ids=str,
)
def test_other_shapes_spill_nothing(target, case):
    kernel = compiled(target, **case)
    assert kernel.spills == 0
    assert kernel.shared <= SHARED[target] * 1024
    assert copies_in_flight(kernel) > 0
    assert (kernel.tensor_core > 0) == (case.get("dtype") != torch.float32)


def test_float8_is_refused_where_there_is_none():
    with pytest.raises(TypeError, match="k_pages must be int8 or 16-bit on sm_80, got float8_e4m3fn"):
        compiled(80, stored=torch.float8_e4m3fn)


def test_compiles_for_amd():
    kernel = compiled("gfx942", head_dim=128, unit_rows=16)
    assert kernel.tensor_core > 0
