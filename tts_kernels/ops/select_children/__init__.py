"""Deciding how many children each candidate of a search round gets."""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch
from torch import Tensor

from tts_kernels._checks import Dims, expect, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch

OP = "select_children"
# In the order of SelectRule in csrc/params.h.
Rule = Literal["topk", "rebase"]
RULES: tuple[Rule, ...] = get_args(Rule)


def select_children(
    scores: Tensor,
    offsets: Tensor,
    keep: Tensor,
    budget: Tensor,
    *,
    rule: Rule = "topk",
    temperature: float = 0.1,
    backend: Backend | None = None,
) -> Tensor:
    """Share the budget of each group of candidates among its best ones.

    scores: [M] float32; offsets: [G + 1] int32 ascending from 0 to M, group g is candidates
    offsets[g]:offsets[g + 1]; keep, budget: [G] int32, how many candidates may have children, and how many children.
    Returns widths [M] int32, 0 for a pruned candidate. Those of a group sum to its budget, or to 0 when it is empty
    or keeps nobody. The order is by score, descending, equal scores by index.

    "topk": the first min(keep, size) get equal widths, the remainder goes one each to the best.
    "rebase" (Wu et al. 2408.00724): in that order each gets ceil(remaining budget * w / remaining weight), but no more
    than is left, with w = exp((score - largest score) / temperature); a share within 1e-12 of a whole number counts as
    that number. This is the allocation of the released code; the paper's Round() of every share does not sum to the
    budget.
    Raises ValueError or TypeError on bad shapes, dtypes, devices and options and, for CPU tensors, on NaN scores,
    offsets out of order and negative keep or budget.
    """
    dims = Dims(OP)
    dims.shape(scores, "scores", "M")
    dims.shape(keep, "keep", "G")
    dims.shape(budget, "budget", "G")
    dims.shape(offsets, "offsets", str(dims["G"] + 1))
    expect_dtype(OP, torch.float32, scores=scores)
    expect_dtype(OP, torch.int32, offsets=offsets, keep=keep, budget=budget)
    expect_same(OP, "device", scores=scores, offsets=offsets, keep=keep, budget=budget)
    expect(OP, rule in RULES, "rule", " or ".join(RULES), repr(rule))
    expect(OP, 0 < temperature < math.inf, "temperature", "positive and finite", temperature)
    if scores.device.type == "cpu":
        _check_values(scores, offsets, keep, budget)
    return dispatch(OP, backend, scores.device)(scores, offsets, keep, budget, rule, temperature)


def _check_values(scores: Tensor, offsets: Tensor, keep: Tensor, budget: Tensor) -> None:
    nan = scores.isnan()
    if nan.any():
        raise ValueError(f"{OP}: scores must not be NaN, got NaN for candidate {int(nan.nonzero()[0])}")
    ends = int(offsets[0]), int(offsets[-1])
    ascending = ends == (0, len(scores)) and not (offsets.diff() < 0).any()
    expect(OP, ascending, "offsets", f"ascending from 0 to {len(scores)}", offsets.tolist())
    for name, tensor in (("keep", keep), ("budget", budget)):
        expect(OP, not (tensor < 0).any(), name, "at least 0", tensor.tolist())
