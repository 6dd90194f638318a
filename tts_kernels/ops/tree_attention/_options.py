from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Options:
    """How keys are scored and stored, checked: what the backends get next to q, the pages and the plan."""

    scale: float
    softcap: float
    window: int
    sinks: Tensor | None
    k_scales: Tensor | None
    v_scales: Tensor | None
