import pytest
import torch

from tts_kernels import _ext
from tts_kernels.backends import BACKENDS, why_not

if _ext.why_not_triton("cpu") is None:
    from tts_kernels.testing import interpreter

    interpreter.install()

# Tests run side by side on few cores; threads of one would wait for those of another.
torch.set_num_threads(1)


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(params=BACKENDS)
def backend(request, device):
    """Every backend that can run the op of the test file (tests/ops/test_<op>.py) here."""
    op = request.node.path.stem.removeprefix("test_")
    reason = why_not(op, request.param, device)
    if reason is not None:
        pytest.skip(reason)
    return request.param


@pytest.fixture(params=["base", "avx2", "avx512"])
def isa(request):
    """Every instruction set of this processor for which the CPU kernels were built, one at a time."""
    ops = torch.ops.tts_kernels
    if why_not("merge_states", "native", "cpu") is not None:
        pytest.skip("native kernels are not built")
    before = ops.cpu_isa()
    if not ops.set_cpu_isa(["base", "avx2", "avx512"].index(request.param)):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    ops.set_cpu_isa(before)
