"""Loads the compiled extensions once, and remembers why when it cannot. The only reader of the environment."""

from __future__ import annotations

import importlib
import importlib.util
import os
from functools import cache
from types import ModuleType

import torch
from torch import library


@cache
def _load(name: str) -> tuple[ModuleType | None, str | None]:
    full = f"tts_kernels.{name}"
    if importlib.util.find_spec(full) is None:
        return None, f"{full} is not built (installed with TTS_BUILD_EXT=0)"
    try:
        return importlib.import_module(full), None
    except ImportError as error:
        return None, f"{full} does not load: {error}"


def why_not_native() -> str | None:
    """The reason why the compiled ops are absent, or None when they are registered."""
    module, reason = _load("_C")
    if module is not None:
        _register_fakes()
    return reason


def why_not_cuda() -> str | None:
    """The reason why the CUDA kernels are absent from the compiled ops, or None when they are registered."""
    reason = why_not_native()
    if reason is None and not torch._C._dispatch_has_kernel_for_dispatch_key("tts_kernels::tree_attention", "CUDA"):
        reason = "tts_kernels._C was built without CUDA: nvcc was not found, or TTS_CUDA_ARCHS was empty"
    return reason


def host() -> ModuleType:
    """The compiled page table, forest and planner. Raises RuntimeError with the reason when absent."""
    module, reason = _load("_host")
    if module is None:
        raise RuntimeError(f"the KV forest needs the compiled host core: {reason}")
    return module


@cache
def _register_fakes() -> None:
    """All tensor ops write into buffers given by the caller, so under tracing there is nothing to compute."""
    for op in native_ops():
        library.register_fake(f"tts_kernels::{op}", lambda *args: None)


def native_ops() -> list[str]:
    """Names of the tensor ops that the compiled library registered."""
    names = torch._C._dispatch_get_all_op_names()
    ours = sorted({n.removeprefix("tts_kernels::").split(".")[0] for n in names if n.startswith("tts_kernels::")})
    return [n for n in ours if not n.endswith("cpu_isa")]


def runs_cuda_kernels(device: torch.device) -> bool:
    """Whether the native ops run their CUDA kernels on tensors of this device; the CPU's differ in a few things."""
    return device.type == "cuda"


def triton_interpreted() -> bool:
    """Whether Triton was told to run kernels in its interpreter; it decides when it is imported."""
    return os.environ.get("TRITON_INTERPRET") == "1"


@cache
def why_not_triton(device_type: str) -> str | None:
    """Why Triton kernels cannot run on tensors of this type, or None. On the CPU they run in Triton's interpreter."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    if device_type == "cuda" or (device_type == "cpu" and triton_interpreted()):
        return None
    return f"triton kernels run on {device_type} only in the interpreter (TRITON_INTERPRET=1 before the start)"
