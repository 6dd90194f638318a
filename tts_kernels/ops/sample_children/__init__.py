"""Drawing the children of tree nodes from their next-token logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tts_kernels._checks import REFERENCE_FLOATS, Dims, expect, expect_dtype, expect_same
from tts_kernels.backends import Backend, dispatch

OP = "sample_children"


def sample_children(
    logits: Tensor,
    keys: Tensor,
    positions: Tensor,
    widths: Tensor,
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    distinct: bool = False,
    total: int | None = None,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw ``widths[n]`` next tokens for every row n, each a function of (key, position) and the row's logits only.

    logits: [N, V] float32, bfloat16 or float16, -inf for tokens never to be drawn; keys: [N] int64, the 64-bit random
    key of the row's node; positions: [N] int32, the place of the token in its path; widths: [N] int32, 0 for a row
    that is not to be read at all. total: sum of widths, which spares a device its synchronisation.
    Returns tokens [C] int64 and log_probs [C] float32, C = sum of widths, children of a row adjacent.

    Distribution: softmax(logits / temperature), restricted to the top_k largest (0: all), then to the fewest of
    these in descending order whose renormalised mass reaches top_p (at least one), then to those with at least min_p
    times the largest probability; equal logits rank by index, lower first. Draws are independent (inverse CDF in index
    order) or, with distinct, without replacement (Gumbel top-k, children in descending perturbed order); when fewer
    than width tokens are left, distinct draws repeat in order. Temperature 0 takes the largest logit or, with
    distinct, the width largest in order; the restrictions then play no part.
    log_probs are the model's own: log_softmax(logits)[token], without temperature and restrictions.

    Raises ValueError or TypeError on bad shapes, dtypes, devices and options and, for CPU tensors, on negative
    widths, a wrong total, and a row to be drawn from whose logits hold NaN, +inf or nothing finite. On other
    devices such a row's tokens are -1.
    """
    dims = Dims(OP)
    dims.shape(logits, "logits", "N V")
    for name, tensor in (("keys", keys), ("positions", positions), ("widths", widths)):
        dims.shape(tensor, name, "N")
    expect_dtype(OP, *REFERENCE_FLOATS, logits=logits)
    expect_dtype(OP, torch.int64, keys=keys)
    expect_dtype(OP, torch.int32, positions=positions, widths=widths)
    expect_same(OP, "device", logits=logits, keys=keys, positions=positions, widths=widths)
    _check_options(temperature, top_k, top_p, min_p)
    total = _check_widths(widths, total)
    options = (float(temperature), int(top_k), float(top_p), float(min_p), bool(distinct))
    tokens, log_probs = dispatch(OP, backend, logits.device)(logits, keys, positions, widths, total, *options)
    if tokens.device.type == "cpu" and total and tokens.min() < 0:
        row = int(torch.repeat_interleave(torch.arange(len(widths)), widths)[tokens < 0][0])
        largest = float(logits[row].max()) if dims["V"] else -math.inf
        raise ValueError(f"{OP}: the largest logit of a row must be finite, got {largest} in row {row}")
    return tokens, log_probs


def _check_options(temperature: float, top_k: int, top_p: float, min_p: float) -> None:
    # Below 1e-6 the reciprocal leaves the range of float32; 0 is what such a temperature means.
    scale_ok = temperature == 0 or 1e-6 <= temperature < math.inf
    expect(OP, scale_ok, "temperature", "0 or at least 1e-6, and finite", temperature)
    expect(OP, top_k >= 0, "top_k", "at least 0", top_k)
    expect(OP, 0 <= top_p <= 1, "top_p", "in [0, 1]", top_p)
    expect(OP, 0 <= min_p <= 1, "min_p", "in [0, 1]", min_p)


def _check_widths(widths: Tensor, total: int | None) -> int:
    if widths.device.type != "cpu" and total is not None:
        return total
    wanted = int(widths.sum(dtype=torch.int64))
    expect(OP, not (widths < 0).any(), "widths", "at least 0", widths.tolist())
    expect(OP, total is None or total == wanted, "total", f"the sum of widths, {wanted}", total)
    expect(OP, wanted < 2**31, "sum of widths", "below 2**31", wanted)
    return wanted
