"""Which implementation of an op runs, and why another cannot."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import cache
from typing import Literal, get_args

import torch

from tts_kernels import _ext

Backend = Literal["reference", "triton", "native"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
# What `backend=None` tries, best first.
PREFERENCE: tuple[Backend, ...] = ("native", "triton", "reference")
OPS = (
    "linear",
    "tree_attention",
    "merge_states",
    "write_kv",
    "copy_pages",
    "sample_children",
    "score_steps",
    "select_children",
)

# Where torch's own is hard to beat on a GPU.
CPU_ONLY = ("linear",)


@cache
def _has_module(op: str, backend: str) -> bool:
    return importlib.util.find_spec(f"tts_kernels.ops.{op}._{backend}") is not None


def why_not(op: str, backend: Backend, device: torch.device | str) -> str | None:
    """The reason why ``backend`` cannot run ``op`` on ``device``, or None when it can."""
    if op not in OPS:
        raise ValueError(f"why_not: op must be one of {', '.join(OPS)}, got {op!r}")
    if backend not in BACKENDS:
        raise ValueError(f"why_not: backend must be one of {', '.join(BACKENDS)}, got {backend!r}")
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        return "no CUDA device is available"
    if backend == "reference":
        return None
    if not _has_module(op, backend):
        return f"{op} has no {backend} kernel in this version"
    if backend == "triton":
        return _ext.why_not_triton(kind)
    if kind not in ("cpu", "cuda"):
        return f"the native kernels run on cpu and cuda, not on {kind}"
    if kind == "cuda" and op in CPU_ONLY:
        return f"the native kernel of {op} runs on the cpu only"
    return _ext.why_not_native() if kind == "cpu" else _ext.why_not_cuda()


@cache
def _implementation(op: str, backend: Backend) -> Callable:
    return getattr(importlib.import_module(f"tts_kernels.ops.{op}._{backend}"), op)


def dispatch(op: str, backend: Backend | None, device: torch.device) -> Callable:
    """The function that runs ``op`` on ``device``.

    A backend asked for by name runs or raises RuntimeError with the reason; only ``None`` may choose.
    """
    if backend is not None:
        reason = why_not(op, backend, device)
        if reason is not None:
            raise RuntimeError(f"{op}: backend {backend!r} cannot run here: {reason}")
        return _implementation(op, backend)
    for candidate in PREFERENCE:
        if why_not(op, candidate, device) is None:
            return _implementation(op, candidate)
    raise RuntimeError(f"{op}: no backend runs on {device}")
