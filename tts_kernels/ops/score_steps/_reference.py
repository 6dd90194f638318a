from itertools import pairwise

import torch
from torch import Tensor


def step_score(logits: Tensor, head: str, positive: int) -> Tensor:
    if head == "softmax":
        return torch.softmax(logits, -1)[..., positive]
    return torch.sigmoid(logits[..., positive]) if head == "sigmoid" else logits[..., positive]


def path_score(scores: Tensor, aggregate: str, prior: float, prior_steps: int) -> Tensor | float:
    """scores: the new steps of one path; prior: the aggregate over the earlier ones."""
    if prior_steps == 0:
        # What leaves the aggregate over the new steps as it is; 0.0 when there is none.
        prior = 0.0 if len(scores) == 0 else {"last": 0.0, "min": torch.inf, "prod": 1.0, "mean": 0.0}[aggregate]
    if len(scores) == 0:
        return prior
    if aggregate == "last":
        return scores[-1]
    if aggregate == "min":
        return torch.minimum(scores.min(), scores.new_tensor(prior))
    if aggregate == "prod":
        return prior * scores.prod()
    return (prior * prior_steps + scores.sum()) / (prior_steps + len(scores))


def score_steps(
    hidden: Tensor,
    rows: Tensor,
    offsets: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    head: str,
    positive: int,
    aggregate: str,
    prior: Tensor | None,
    prior_steps: Tensor | None,
) -> tuple[Tensor, Tensor]:
    work = torch.float64 if hidden.dtype == torch.float64 else torch.float32
    logits = hidden[rows.long()].to(work) @ weight.to(work).T
    if bias is not None:
        logits = logits + bias
    steps = step_score(logits, head, positive)
    paths = steps.new_zeros(len(offsets) - 1)
    for b, (begin, end) in enumerate(pairwise(offsets.tolist())):
        earlier = (0.0, 0) if prior is None or prior_steps is None else (float(prior[b]), int(prior_steps[b]))
        paths[b] = path_score(steps[begin:end], aggregate, *earlier)
    return steps.float(), paths.float()
