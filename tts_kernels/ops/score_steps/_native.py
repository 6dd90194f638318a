import torch
from torch import Tensor

from tts_kernels.ops.score_steps import AGGREGATES, HEADS, Aggregate, Head


def score_steps(
    hidden: Tensor,
    rows: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    head: Head,
    positive: int,
    aggregate: Aggregate,
    prior: Tensor | None,
    prior_steps: Tensor | None,
) -> tuple[Tensor, Tensor]:
    step_scores = hidden.new_empty(len(rows), dtype=torch.float32)
    path_scores = hidden.new_empty(len(offsets) - 1, dtype=torch.float32)
    inputs = (hidden, rows, offsets, weight, bias, prior, prior_steps)
    torch.ops.tts_kernels.score_steps(
        *(x if x is None else x.contiguous() for x in inputs),
        step_scores,
        path_scores,
        positive,
        HEADS.index(head),
        AGGREGATES.index(aggregate),
    )
    return step_scores, path_scores
