import pytest
import torch

from tts_kernels import _ext
from tts_kernels.ops.merge_states import merge_states
from tts_kernels.testing import assert_matches_oracle, peaky

# Parts, rows, heads, head_dim: one, odd, empty, and one past every vector and chunk edge.
SHAPES = [(1, 1, 1, 16), (2, 3, 5, 17), (3, 0, 2, 64), (5, 13, 5, 80), (4, 65, 1, 129), (2, 2, 9, 256), (0, 3, 2, 16)]
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def make_parts(shape, dtype, device, seed=0):
    """Part results with a row that no part saw, a part that saw nothing (its output poisoned), and peaks."""
    generator = torch.Generator().manual_seed(seed)
    outs = peaky(*shape, generator=generator, dtype=dtype)
    lses = peaky(*shape[:-1], generator=generator, scale=10.0)
    if lses.numel():
        lses[:, 0] = -torch.inf
        lses[-1, -1] = -torch.inf
        outs[lses == -torch.inf] = torch.nan
    return outs.to(device), lses.to(device)


def check(backend, device, shape, dtype):
    outs, lses = make_parts(shape, dtype, device)
    out, lse = merge_states(outs, lses, backend=backend)
    oracle_out, oracle_lse = merge_states(outs.double(), lses, backend="reference")
    same_out, same_lse = merge_states(outs, lses, backend="reference")
    assert out.dtype == dtype
    assert_matches_oracle(out, oracle_out, same_out, "out")
    assert_matches_oracle(lse, oracle_lse, same_lse, "lse")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_matches_oracle(backend, device, shape, dtype):
    check(backend, device, shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    check("native", torch.device("cpu"), (5, 13, 5, 85), dtype)


def test_a_row_without_keys_gives_zeros(backend, device):
    outs, lses = make_parts((3, 2, 2, 20), torch.float32, device)
    out, lse = merge_states(outs, lses, backend=backend)
    assert torch.equal(out[0], torch.zeros_like(out[0]))
    assert (lse[0] == -torch.inf).all()


def test_bad_input():
    outs, lses = make_parts((2, 3, 5, 16), torch.float32, "cpu")
    with pytest.raises(ValueError, match=r"merge_states: lses must be \[P, N, Hq\], got \[2, 3, 4\] .*Hq=5 from outs"):
        merge_states(outs, lses[..., :4])
    with pytest.raises(TypeError, match="merge_states: lses must be float32, got float64"):
        merge_states(outs, lses.double())
    with pytest.raises(TypeError, match=r"merge_states: outs must be .*, got int32"):
        merge_states(outs.int(), lses)
    with pytest.raises(ValueError, match="backend must be one of"):
        merge_states(outs, lses, backend="fast")


def test_a_backend_that_cannot_run_says_why(monkeypatch):
    outs, lses = make_parts((2, 3, 5, 16), torch.float32, "cpu")
    monkeypatch.setattr(_ext, "why_not_triton", lambda device_type: "of the weather")
    with pytest.raises(RuntimeError, match="merge_states: backend 'triton' cannot run here: of the weather"):
        merge_states(outs, lses, backend="triton")
