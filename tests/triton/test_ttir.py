"""What the compiler made of the kernels, run on the CPU by ttsem: bfloat16, masks, bounds and races of the real thing.

TTIR is what the kernel says, the last TTGIR what is left of it after layouts, pipelining and asynchronous copies.
"""

from contextlib import contextmanager
from importlib.util import find_spec
from unittest.mock import patch

import pytest
import torch

from tts_kernels import _ext

if _ext.triton_interpreted():
    pytest.skip("needs the process without TRITON_INTERPRET", allow_module_level=True)
pytest.importorskip("triton")
pytest.importorskip("ttsem", reason="pip install --ignore-requires-python --no-deps ttsem==0.1.0")

import triton
import triton.language as tl
from ttsem import _fakedriver, harness, sanitize

from tts_kernels.ops.copy_pages import copy_pages
from tts_kernels.ops.merge_states import merge_states
from tts_kernels.ops.tree_attention import tree_attention
from tts_kernels.ops.write_kv import write_kv
from tts_kernels.testing import assert_matches_oracle, peaky
from tts_kernels.testing.plans import Shape, random_case

STAGES = [("ttir", 90), ("ttgir", 80), ("ttgir", 90)]


@contextmanager
def compiled(stage, capability, races="raise"):
    """Launches inside are compiled for the capability and executed at this stage; faults raise.

    races="off" for kernels whose programs wait for each other's counts: ttsem knows no order through atomics.
    """
    whole = harness.ir_for_launch

    def at_stage(record, asked, target, *rest, **options):
        return whole(record, stage, target, *rest, **options)

    with (
        # The session leaves its driver and its answers to torch.cuda behind.
        patch.object(triton.runtime.driver, "_active", None),
        closing_with(_fakedriver.unstub_torch_cuda),
        patch.object(_ext, "why_not_triton", lambda device_type: None),
        patch.object(harness, "ir_for_launch", at_stage),
        sanitize.session(cc=capability, races=races) as session,
    ):
        yield
        assert session.launches > 0
        assert session.races_unchecked == 0


@contextmanager
def closing_with(function):
    try:
        yield
    finally:
        function()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


@triton.jit
def _unmasked_kernel(x_ptr, SIZE: tl.constexpr):
    at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    tl.store(x_ptr + at, tl.load(x_ptr + at) + 1)


@triton.jit
def _overlapping_kernel(x_ptr, SIZE: tl.constexpr):
    tl.store(x_ptr + tl.program_id(0) * (SIZE - 1) + tl.arange(0, SIZE), tl.program_id(0).to(tl.float32))


def test_nothing_is_left_behind():
    before = torch.cuda.is_available, triton.runtime.driver._active
    with compiled("ttir", 90):
        copy_pages(*torch.zeros(2, 1, 2, 1, 1, 1), *torch.tensor([[0], [1]], dtype=torch.int32), backend="triton")
    assert (torch.cuda.is_available, triton.runtime.driver._active) == before


@pytest.mark.parametrize(("kernel", "kind"), [(_unmasked_kernel, "oob"), (_overlapping_kernel, "race")])
def test_planted_faults_are_seen(kernel, kind):
    with pytest.raises(sanitize.KernelFault) as caught, compiled("ttir", 90):
        kernel[(3,)](torch.zeros(46), SIZE=16)
    assert caught.value.fault.kind.startswith(kind)


@pytest.mark.parametrize(("stage", "capability"), STAGES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.int8], ids=str)
def test_copy_pages(stage, capability, dtype):
    pages = torch.randint(-128, 128, (2, 2, 5, 2, 16, 40), generator=generator(), dtype=torch.int8).to(dtype)
    src, dst = torch.tensor([3, 3], dtype=torch.int32), torch.tensor([1, 4], dtype=torch.int32)
    want = pages.clone()
    want[:, :, dst.long()] = want[:, :, src.long()]
    with compiled(stage, capability):
        copy_pages(*pages, src, dst, backend="triton")
    assert torch.equal(pages, want)


@pytest.mark.parametrize(("stage", "capability"), STAGES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_merge_states(stage, capability, dtype):
    shape = (3, 17, 3, 80)
    outs, lses = (
        peaky(*shape, generator=generator(), dtype=dtype),
        peaky(*shape[:3], generator=generator(1), scale=10.0),
    )
    lses[:, 0] = lses[2, 1] = -torch.inf
    outs[lses == -torch.inf] = torch.nan
    with compiled(stage, capability):
        got = merge_states(outs, lses, backend="triton")
    oracle = merge_states(outs.double(), lses, backend="reference")
    same = merge_states(outs, lses, backend="reference")
    for name, *triple in zip(("out", "lse"), got, oracle, same, strict=True):
        assert_matches_oracle(*triple, name)


@pytest.mark.parametrize(("stage", "capability"), STAGES)
@pytest.mark.parametrize("stored", [torch.bfloat16, torch.int8, torch.float8_e4m3fn], ids=str)
def test_write_kv(stage, capability, stored):
    if stored == torch.float8_e4m3fn and capability < 89:
        pytest.skip("no float8_e4m3fn before compute capability 8.9")
    quantised = stored != torch.bfloat16
    got, want = ([torch.zeros(4, 2, 16, 20).to(stored) for _ in "kv"] for _ in range(2))
    scales = [({"k_scales": torch.zeros(4, 2), "v_scales": torch.zeros(4, 2)} if quantised else {}) for _ in range(2)]
    for call, slots in enumerate(([*range(3, 16), *range(48, 57)], [1, 17, *range(57, 60)])):
        fused = peaky(len(slots), 4, 20, generator=generator(call), dtype=torch.bfloat16) * 3**call
        args = fused[:, :2], fused[:, 2:]
        slots = torch.tensor(slots, dtype=torch.int32)
        with compiled(stage, capability):
            write_kv(*args, *got, slots, **scales[0], backend="triton")
        write_kv(*args, *want, slots, **scales[1], backend="reference")
    for name in scales[0]:
        assert torch.equal(scales[0][name], scales[1][name])
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a.float(), b.float())


@pytest.mark.skipif(find_spec("tts_kernels.ops.tree_attention._triton") is None, reason="no triton kernel yet")
@pytest.mark.parametrize(("stage", "capability"), STAGES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_tree_attention(stage, capability, dtype):
    case = random_case(Shape(nodes=6, node_tokens=40, q_heads=4, kv_heads=2, layers=2), dtype, "cpu")
    with compiled(stage, capability, races="off"):
        got = tree_attention(case.q, case.k_pages, case.v_pages, case.plan, return_lse=True, backend="triton")
    same = tree_attention(case.q, case.k_pages, case.v_pages, case.plan, return_lse=True, backend="reference")
    for name, *triple in zip(("out", "lse"), got, case.oracle(), same, strict=True):
        assert_matches_oracle(*triple, name)
