"""Comparison with a float64 oracle under a tolerance that is derived, never typed in."""

from __future__ import annotations

import torch
from torch import Tensor


def assert_matches_oracle(got: Tensor, oracle: Tensor, same: Tensor, name: str) -> None:
    """``got`` may be off from ``oracle`` by twice what the reference in the same dtype, ``same``, is off.

    The bound is taken over the whole tensor (largest absolute error) plus one unit in the last place of the
    largest magnitude, so that a case in which the reference is exact by luck does not demand exactness.
    Infinities must agree in place and sign, NaN is never right.
    """
    if got.shape != oracle.shape:
        raise AssertionError(f"{name}: shape {list(got.shape)}, oracle {list(oracle.shape)}")
    if got.numel() == 0:
        return
    got64, oracle64, same64 = got.double(), oracle.double(), same.double()
    finite = torch.isfinite(oracle64)
    if not torch.equal(got64[~finite], oracle64[~finite]):
        raise AssertionError(f"{name}: infinities differ from the oracle's")
    if not torch.isfinite(got64[finite]).all():
        raise AssertionError(f"{name}: {int((~torch.isfinite(got64[finite])).sum())} values are not finite")
    if not finite.any():
        return
    magnitude = oracle64[finite].abs().max()
    allowed = 2 * (same64 - oracle64)[finite].abs().max() + magnitude * torch.finfo(got.dtype).eps
    worst = (got64 - oracle64)[finite].abs().max()
    if worst > allowed:
        raise AssertionError(f"{name}: off by {worst:.3e}, allowed {allowed:.3e} (twice the reference's own error)")
