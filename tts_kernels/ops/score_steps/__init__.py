"""Scoring reasoning steps with the head of a reward model, without the head's vocabulary."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from tts_kernels._checks import REFERENCE_FLOATS, Dims, expect, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch

OP = "score_steps"
# In the order of ScoreHead and Aggregate in csrc/params.h.
Head = Literal["softmax", "sigmoid", "raw"]
Aggregate = Literal["last", "min", "prod", "mean"]
HEADS: tuple[Head, ...] = get_args(Head)
AGGREGATES: tuple[Aggregate, ...] = get_args(Aggregate)


def score_steps(
    hidden: Tensor,
    rows: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    head: Head = "softmax",
    positive: int = 0,
    aggregate: Aggregate = "last",
    prior: Tensor | None = None,
    prior_steps: Tensor | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:
    """Score the step ends ``rows`` of ``hidden`` and aggregate them along each path.

    hidden: [T, H] float32, bfloat16 or float16; rows: [M] int32, where steps end; offsets: [B + 1] int32 ascending
    from 0 to M, path b's new steps are rows[offsets[b]:offsets[b + 1]]; weight: [C, H] in hidden's dtype, only the
    rows of the head that matter (two for "+" and "-"); bias: [C] float32. prior, prior_steps: [B] float32 and int32,
    the aggregate over a path's earlier steps and their number, both or neither; prior is not read where that is 0.
    Returns step_scores [M] and path_scores [B], float32.

    logits = weight @ hidden[row] + bias in float32. head "softmax": probability of class ``positive`` among the C;
    "sigmoid": of the only class; "raw": logit of class ``positive``. The path's score is the last, least, product or
    mean over earlier and new steps; prior without a new step, 0.0 without any step.
    Raises ValueError or TypeError on bad shapes, dtypes, devices and options and, for CPU tensors, on rows or
    offsets out of range and negative prior_steps.
    """
    dims = Dims(OP)
    dims.shape(hidden, "hidden", "T H")
    dims.shape(rows, "rows", "M")
    dims.shape(weight, "weight", "C H")
    expect_dtype(OP, *REFERENCE_FLOATS, hidden=hidden)
    expect_dtype(OP, torch.int32, rows=rows, offsets=offsets)
    expect_same(OP, "dtype", hidden=hidden, weight=weight)
    expect(OP, offsets.dim() == 1 and len(offsets) > 0, "offsets", "[B + 1]", list(offsets.shape))
    missing = [name for name, x in (("prior", prior), ("prior_steps", prior_steps)) if x is None]
    expect(OP, len(missing) != 1, "prior and prior_steps", "given together", f"no {''.join(missing)}")
    optional = {}
    for name, tensor, dtype, size in (
        ("bias", bias, torch.float32, dims["C"]),
        ("prior", prior, torch.float32, len(offsets) - 1),
        ("prior_steps", prior_steps, torch.int32, len(offsets) - 1),
    ):
        if tensor is not None:
            dims.shape(tensor, name, str(size))
            expect_dtype(OP, dtype, **{name: tensor})
            optional[name] = tensor
    expect_same(OP, "device", hidden=hidden, rows=rows, offsets=offsets, weight=weight, **optional)
    expect(OP, head in HEADS, "head", " or ".join(HEADS), repr(head))
    expect(OP, aggregate in AGGREGATES, "aggregate", " or ".join(AGGREGATES), repr(aggregate))
    expect(OP, head != "sigmoid" or dims["C"] == 1, "weight", "[1, H] for head 'sigmoid'", list(weight.shape))
    expect(OP, 0 <= positive < dims["C"], "positive", f"in [0, {dims['C']})", positive)
    if hidden.device.type == "cpu":
        _check_values(rows, offsets, prior_steps, dims["T"])
    run = dispatch(OP, backend, hidden.device)
    return run(hidden, rows, offsets, weight, bias, head, positive, aggregate, prior, prior_steps)


def _check_values(rows: Tensor, offsets: Tensor, prior_steps: Tensor | None, tokens: int) -> None:
    if len(rows):
        low, high = (int(x) for x in rows.aminmax())
        expect(OP, low >= 0 and high < tokens, "rows", f"in [0, {tokens})", low if low < 0 else high)
    ends = int(offsets[0]), int(offsets[-1])
    ascending = ends == (0, len(rows)) and not (offsets.diff() < 0).any()
    expect(OP, ascending, "offsets", f"ascending from 0 to {len(rows)}", offsets.tolist())
    if prior_steps is not None:
        expect(OP, not (prior_steps < 0).any(), "prior_steps", "at least 0", prior_steps.tolist())
