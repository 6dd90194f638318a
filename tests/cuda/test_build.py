"""The CUDA part of the extension as setup.py builds it: compiled, linked and loaded where there is no driver."""

import importlib.util
import os
import subprocess
import sys

import pytest
import torch
from mutants import ROOT, SMALL

LOADS = """
import sys, torch
from tts_kernels import _ext
from tts_kernels.backends import why_not
assert "without CUDA" in _ext.why_not_cuda() or torch.cuda.is_available()
torch.ops.load_library(sys.argv[1])
assert _ext.why_not_cuda() is None
print(why_not("tree_attention", "native", "cuda"))
"""


def setup_module_of_the_project():
    spec = importlib.util.spec_from_file_location("project_setup", ROOT / "setup.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_builds_and_loads_without_a_gpu(tmp_path, monkeypatch):
    monkeypatch.chdir(ROOT)
    setup = setup_module_of_the_project()
    nvcc = setup.find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    # Two attention kernels instead of forty-four.
    monkeypatch.setenv("NVCC_PREPEND_FLAGS", f"-I{SMALL}")
    objects = setup.cuda_objects(nvcc, "80", str(tmp_path))
    library, folder = tmp_path / "cuda.so", os.path.dirname(torch.__file__)
    command = ["g++", "-shared", "-fPIC", "-std=c++17", "-Icsrc", f"-isystem{folder}/include"]
    command += [f"-D{'='.join(setup.TORCH_TARGET)}", "csrc/bindings_cuda.cpp", *objects, setup.static_runtime(nvcc)]
    command += [f"-L{folder}/lib", "-ltorch_cpu", "-lc10", "-ldl", "-lrt", "-lpthread", "-o", str(library)]
    subprocess.run(command, check=True)
    done = subprocess.run([sys.executable, "-c", LOADS, str(library)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    if not torch.cuda.is_available():
        assert done.stdout.strip() == "no CUDA device is available"


def test_archs_become_flags(monkeypatch):
    setup = setup_module_of_the_project()
    nvcc = setup.find_nvcc()
    if nvcc is None:
        pytest.skip("nvcc is not installed")
    assert setup.arch_flags(nvcc, "90;80") == [
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    assert setup.arch_flags(nvcc, "native") == ["-arch=native"]
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CUDA_HOME", raising=False)
    monkeypatch.delenv("CUDA_PATH", raising=False)
    assert setup.find_nvcc() is None
