import sys
from pathlib import Path

import pytest
import torch

from tts_kernels import _ext
from tts_kernels.backends import BACKENDS, why_not

if _ext.why_not_triton("cpu") is None:
    from tts_kernels.testing import interpreter

    interpreter.install()

# Builds of the CPU kernels, in the order of csrc/cpu/dispatch.h.
ISAS = ["base", "avx2", "avx512", "avx512_bf16", "amx"]
# Tests run side by side on few cores; threads of one would wait for those of another.
torch.set_num_threads(1)


# What runs the CUDA kernels on the host.
sys.path.insert(0, str(Path(__file__).parent / "cuda"))


def pytest_addoption(parser):
    parser.addoption(
        "--cuda-sources",
        metavar="MODES",
        default="",
        help="native ops run their CUDA kernels on the host: late,late80,early,ptx,ptx-early (tests/cuda/README.md)",
    )
    parser.addoption("--all-mutants", action="store_true", help="also those that make test leaves out")
    parser.addoption("--cuda-overlay", metavar="DIRS", default="", help="with sources to take the place of csrc's")


def pytest_configure(config):
    if config.getoption("cuda_sources"):
        from execution import load
        from simt_build import add_overlay

        for folder in reversed(config.getoption("cuda_overlay").split(":")):
            if folder:
                add_overlay(Path(folder).absolute())
        load()


def pytest_generate_tests(metafunc):
    # A test may name its backends itself.
    named = any("backend" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "backend" in metafunc.fixturenames and not named:
        modes = metafunc.config.getoption("cuda_sources")
        metafunc.parametrize("backend", modes.split(",") if modes else BACKENDS, indirect=True)


@pytest.fixture
def device():
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture
def backend(request, device):
    """Every backend that can run the op of the test file (tests/ops/test_<op>.py) here."""
    if request.config.getoption("cuda_sources"):
        from execution import Execution

        with Execution(request.param):
            yield "native"
        return
    op = request.node.path.stem.removeprefix("test_")
    reason = why_not(op, request.param, device)
    if reason is not None:
        pytest.skip(reason)
    yield request.param


@pytest.fixture(params=ISAS)
def isa(request):
    """Every instruction set of this processor for which the CPU kernels were built, one at a time."""
    ops = torch.ops.tts_kernels
    if request.config.getoption("cuda_sources"):
        pytest.skip("the CPU kernels are replaced")
    if why_not("merge_states", "native", "cpu") is not None:
        pytest.skip("native kernels are not built")
    before = ops.cpu_isa()
    if not ops.set_cpu_isa(ISAS.index(request.param)):
        pytest.skip(f"this processor has no {request.param}")
    yield request.param
    ops.set_cpu_isa(before)
