"""Joining attention results taken over disjoint sets of keys."""

from __future__ import annotations

import torch
from torch import Tensor

from tts_kernels._checks import REFERENCE_FLOATS, Dims, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch


def merge_states(outs: Tensor, lses: Tensor, *, backend: Backend | None = None) -> tuple[Tensor, Tensor]:
    """Join attention outputs taken over disjoint key sets.

    outs: [P, N, Hq, D] float32, bfloat16 or float16; lses: [P, N, Hq] float32, natural log, -inf where a part saw
    no key (its output may then hold anything, NaN included).
    Returns out [N, Hq, D] in outs.dtype and lse [N, Hq] float32. A row with no key at all gives zeros and -inf.
    Raises ValueError or TypeError on wrong shapes, dtypes or devices.
    """
    dims = Dims("merge_states")
    dims.shape(outs, "outs", "P N Hq D")
    dims.shape(lses, "lses", "P N Hq")
    expect_dtype("merge_states", *REFERENCE_FLOATS, outs=outs)
    expect_dtype("merge_states", torch.float32, lses=lses)
    expect_same("merge_states", "device", outs=outs, lses=lses)
    return dispatch("merge_states", backend, outs.device)(outs, lses)
