import torch
import triton
import triton.language as tl
from torch import Tensor

from tts_kernels.ops.score_steps import Aggregate, Head

# Weights that a program holds at a time: classes times hidden states.
TILE = 2048


@triton.jit
def _logits(hidden_ptr, weight_ptr, bias_ptr, classes, num_classes, hidden_size, H: tl.constexpr, BIAS: tl.constexpr):
    """Logits of some classes for one row, summed in double. classes: [C]."""
    sums = tl.zeros_like(classes).to(tl.float64)  # [C]
    live = classes < num_classes
    for begin in range(0, hidden_size, H):
        at = begin + tl.arange(0, H)  # [H]
        x = tl.load(hidden_ptr + at, mask=at < hidden_size, other=0.0).to(tl.float64)
        inside = live[:, None] & (at < hidden_size)[None, :]
        w = tl.load(weight_ptr + classes[:, None] * hidden_size + at[None, :], mask=inside, other=0.0)  # [C, H]
        sums += tl.sum(w.to(tl.float64) * x[None, :], axis=1)
    if BIAS:
        sums += tl.load(bias_ptr + classes, mask=live, other=0.0).to(tl.float64)
    return sums


@triton.jit
def _step_score(
    hidden_ptr,
    weight_ptr,
    bias_ptr,
    num_classes,
    hidden_size,
    positive,
    C: tl.constexpr,
    H: tl.constexpr,
    BIAS: tl.constexpr,
    SOFTMAX: tl.constexpr,
    SIGMOID: tl.constexpr,
):
    """Score of one row of hidden states, float32."""
    wanted = tl.full((), 0.0, tl.float64)
    largest, total = tl.full((), -float("inf"), tl.float64), tl.full((), 0.0, tl.float64)
    for first in range(0, num_classes, C):
        classes = (first + tl.arange(0, C)).to(tl.int64)  # [C]
        logits = _logits(hidden_ptr, weight_ptr, bias_ptr, classes, num_classes, hidden_size, H, BIAS)
        wanted += tl.sum(tl.where(classes == positive, logits, 0.0))
        if SOFTMAX:
            logits = tl.where(classes < num_classes, logits, -float("inf"))
            before, largest = largest, tl.maximum(largest, tl.max(logits))
            total = total * tl.exp(before - largest) + tl.sum(tl.exp(logits - largest))
    if SOFTMAX:
        wanted = tl.exp(wanted - largest) / total
    if SIGMOID:
        small = tl.exp(-tl.abs(wanted))
        wanted = tl.where(wanted < 0.0, small, 1.0) / (1.0 + small)
    return wanted.to(tl.float32)


@triton.jit
def _fold(total, score, AGGREGATE: tl.constexpr):
    if AGGREGATE == "mean":
        return total + score
    if AGGREGATE == "prod":
        return total * score
    if AGGREGATE == "min":
        # A NaN stays visible: no comparison with it holds.
        return tl.where((total <= score) | (total != total), total, score)
    return score


@triton.jit
def _score_steps_kernel(
    hidden_ptr,
    rows_ptr,
    offsets_ptr,
    weight_ptr,
    bias_ptr,
    prior_ptr,
    prior_steps_ptr,
    step_scores_ptr,
    path_scores_ptr,
    stride_row,
    num_classes,
    hidden_size,
    positive,
    C: tl.constexpr,
    H: tl.constexpr,
    BIAS: tl.constexpr,
    PRIOR: tl.constexpr,
    HEAD: tl.constexpr,
    AGGREGATE: tl.constexpr,
):
    path = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(offsets_ptr + path).to(tl.int64), tl.load(offsets_ptr + path + 1).to(tl.int64)
    # What leaves the other scores as they are.
    total = tl.full((), 0.0, tl.float64)
    if AGGREGATE == "prod":
        total += 1.0
    if AGGREGATE == "min":
        total += float("inf")
    for step in range(begin, end):
        row = tl.load(rows_ptr + step).to(tl.int64)
        score = _step_score(
            hidden_ptr + row * stride_row,
            weight_ptr,
            bias_ptr,
            num_classes,
            hidden_size,
            positive,
            C,
            H,
            BIAS,
            HEAD == "softmax",
            HEAD == "sigmoid",
        )
        tl.store(step_scores_ptr + step, score)
        total = _fold(total, score.to(tl.float64), AGGREGATE)
    # Read after the steps, so that no register holds it meanwhile.
    earlier, prior = tl.full((), 0, tl.int32), tl.full((), 0.0, tl.float32)
    if PRIOR:
        earlier = tl.load(prior_steps_ptr + path)
        if earlier > 0:
            prior = tl.load(prior_ptr + path)
            if AGGREGATE == "mean":
                total += prior.to(tl.float64) * earlier.to(tl.float64)
            elif AGGREGATE != "last":
                total = _fold(total, prior.to(tl.float64), AGGREGATE)
    if AGGREGATE == "mean":
        total /= tl.maximum(earlier + end - begin, 1).to(tl.float64)
    result = tl.where(begin == end, prior, total.to(tl.float32))
    tl.store(path_scores_ptr + path, result)


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
    """One launch, a program per path: it scores the path's new steps one by one and folds them as it goes.

    A search scores one step of each of its paths at a time, so that the paths fill the device; the few rows of the
    head stay in its caches. Hidden rows are read where they are, once. Sums are double, as on the CPU: a score head is
    too small for that to matter.
    """
    if hidden.dtype == torch.float64:
        raise TypeError("score_steps: triton kernels take float32, bfloat16 or float16, got float64")
    step_scores = hidden.new_empty(len(rows), dtype=torch.float32)
    path_scores = hidden.new_empty(len(offsets) - 1, dtype=torch.float32)
    if len(path_scores) == 0:
        return step_scores, path_scores
    hidden = hidden if hidden.stride(1) == 1 else hidden.contiguous()
    inputs = (rows, offsets, weight, bias, prior, prior_steps)
    classes, hidden_size = weight.shape
    class_tile = min(triton.next_power_of_2(classes), 16)
    with torch.cuda.device_of(hidden):
        _score_steps_kernel[(len(path_scores),)](
            hidden,
            *(x if x is None else x.contiguous() for x in inputs),
            *(step_scores, path_scores, hidden.stride(0), classes, hidden_size, positive),
            C=class_tile,
            H=TILE // class_tile,
            BIAS=bias is not None,
            PRIOR=prior is not None,
            HEAD=head,
            AGGREGATE=aggregate,
            # Heads of up to four classes then compile for sm_80, 90 and 100 without spills.
            num_warps=4,
        )
    return step_scores, path_scores
