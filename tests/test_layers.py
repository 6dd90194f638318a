"""While a model is attached its own layers run on our kernels, and are themselves again afterwards."""

import copy

import pytest
import torch
from torch import nn
from transformers.models.llama.modeling_llama import LlamaConfig, LlamaMLP, LlamaRMSNorm

from tts_kernels import _ext
from tts_kernels.layers import fast_layers
from tts_kernels.testing import assert_matches_oracle, peaky

DTYPES = [torch.float32, torch.bfloat16]
pytestmark = pytest.mark.skipif(_ext.why_not_native() is not None, reason="native kernels are not built")


class Model(nn.Module):
    def __init__(self, act="silu"):
        super().__init__()
        config = LlamaConfig(hidden_size=96, intermediate_size=160, hidden_act=act)
        self.norm, self.mlp, self.head = LlamaRMSNorm(96, 1e-5), LlamaMLP(config), nn.Linear(96, 50)
        nn.init.normal_(self.norm.weight)

    def forward(self, x):
        return self.head(x + self.mlp(self.norm(x)))


class CentredRMSNorm(LlamaRMSNorm):
    """Bears the name and computes something else."""

    def forward(self, x):
        return super().forward(x - x.mean(-1, keepdim=True))


def taken_over(model):
    return {name for name, module in model.named_modules() if "forward" in vars(module)}


def inputs(rows, dtype):
    return peaky(1, rows, 96, generator=torch.Generator().manual_seed(rows)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 33])
@torch.inference_mode()
def test_the_same_results(dtype, rows):
    torch.manual_seed(0)
    exact = Model().double()
    model = copy.deepcopy(exact).to(dtype)
    x = inputs(rows, dtype)
    own = model(x)
    with fast_layers(model):
        assert {"norm", "mlp"} <= taken_over(model)
        ours = model(x)
    assert not taken_over(model)
    exact.load_state_dict({name: weight.double() for name, weight in model.state_dict().items()})
    assert_matches_oracle(ours, exact(x.double()), own, "out")
    assert torch.equal(model(x), own)


@pytest.mark.parametrize("dtype", [*DTYPES, torch.float16], ids=str)
@pytest.mark.parametrize("width", [1, 15, 16, 33, 96])
def test_norm_and_gate_on_every_instruction_set(isa, dtype, width):
    generator = torch.Generator().manual_seed(width)
    x, up = (peaky(9, width, generator=generator, dtype=dtype, scale=30.0) for _ in range(2))
    weight, out = peaky(width, generator=generator, dtype=dtype), torch.full_like(x, torch.nan)
    torch.ops.tts_kernels.rms_norm(x, weight, out, 1e-5)
    norm = LlamaRMSNorm(width, 1e-5).to(dtype)
    norm.weight.data = weight
    wide = x.double()
    exact = weight.double() * wide * (wide.pow(2).mean(-1, keepdim=True) + 1e-5).rsqrt()
    assert_matches_oracle(out, exact, norm(x).detach(), "norm")
    torch.ops.tts_kernels.silu_mul(x, up, out.fill_(torch.nan))
    exact = nn.functional.silu(x.double()) * up.double()
    assert_matches_oracle(out, exact, nn.functional.silu(x) * up, "gate")


def test_lookalikes_keep_their_own():
    model = Model(act="gelu")
    model.norm = CentredRMSNorm(96)
    model.head.forward = model.head.forward
    with fast_layers(model):
        assert taken_over(model) == {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "head"}
    assert taken_over(model) == {"head"}


def test_another_dtype_is_asked_anew():
    model = Model()
    for dtype in (torch.float32, torch.float64, torch.float32):
        with fast_layers(model.to(dtype)):
            assert ("norm" in taken_over(model)) == (dtype == torch.float32)


def test_gradients_and_strided_inputs_go_the_old_way():
    model = Model()
    x = inputs(5, torch.float32)
    with fast_layers(model):
        model(x).sum().backward()
        assert model.norm.weight.grad is not None
        with torch.no_grad():
            turned = x.transpose(1, 2).contiguous().transpose(1, 2)
            torch.testing.assert_close(model(turned), model(x))


def test_restored_after_an_error():
    model = Model()
    with pytest.raises(RuntimeError, match="out of luck"), fast_layers(model):
        raise RuntimeError("out of luck")
    assert not taken_over(model)
