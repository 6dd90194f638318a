"""Searches: one file each, checkable against its paper."""

from __future__ import annotations

from tts_kernels.strategies.base import Allocation, Decision, Strategy, allocate
from tts_kernels.strategies.beam import Beam
from tts_kernels.strategies.best_of_n import BestOfN, Greedy

__all__ = ["STRATEGIES", "Allocation", "Beam", "BestOfN", "Decision", "Greedy", "Strategy", "allocate", "make_strategy"]

STRATEGIES: dict[str, type[Strategy]] = {kind.name: kind for kind in (Greedy, BestOfN, Beam)}


def make_strategy(name: str, budget: int, width: int | None = None, max_depth: int | None = None) -> Strategy:
    """The strategy of that name. Raises ValueError for an unknown name or options that it does not take."""
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    options = {key: value for key, value in (("width", width), ("max_depth", max_depth)) if value is not None}
    if options and name != Beam.name:
        raise ValueError(f"{name} takes no {' or '.join(options)}")
    return STRATEGIES[name](budget, **options)
