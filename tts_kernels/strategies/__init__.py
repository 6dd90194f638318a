"""Searches: one file each, checkable against its paper."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

from tts_kernels.compute_optimal import SearchPolicy
from tts_kernels.strategies.adaptive import Adaptive, ComputeOptimal
from tts_kernels.strategies.base import Allocation, Decision, Play, Strategy, allocate, settle
from tts_kernels.strategies.beam import Beam
from tts_kernels.strategies.best_of_n import BestOfN, Greedy
from tts_kernels.strategies.budget import Budget, Fitted
from tts_kernels.strategies.dvts import DVTS
from tts_kernels.strategies.ets import ETS
from tts_kernels.strategies.lookahead import Lookahead
from tts_kernels.strategies.mcts import MCTS
from tts_kernels.strategies.particles import ParticleFilter
from tts_kernels.strategies.rebase import Rebase
from tts_kernels.strategies.revisions import Revisions

__all__ = [
    "DVTS", "ETS", "MCTS", "STRATEGIES", "Adaptive", "Allocation", "Beam", "BestOfN", "Budget", "ComputeOptimal",
    "Decision", "Fitted", "Greedy", "Lookahead", "ParticleFilter", "Play", "Rebase", "Revisions", "Strategy",
    "allocate", "make_strategy", "settle",
]  # fmt: skip

STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind for kind in (Greedy, BestOfN, Beam, Lookahead, DVTS, Rebase, ETS, MCTS, ParticleFilter, Revisions)
}


def make_strategy(spec: str, budget: int | str | Budget, policy: SearchPolicy | None = None) -> Strategy:
    """``"NAME"`` or ``"NAME:OPTION=VALUE,..."`` with the options of the strategy's class, e.g. ``"beam:width=sqrt"``.

    budget: complete solutions, or a Budget, or its text, see ``Budget.parse``. One in tokens or FLOPs gives the
    strategy of the size that fits, see Fitted. policy: what "compute-optimal" chooses by; "adaptive" needs none.
    Raises ValueError for an unknown name, option or value.
    """
    budget = budget if isinstance(budget, Budget) else Budget.parse(budget)
    if budget.unit != "generations":
        return Fitted(lambda size: _make(spec, size, policy), budget)
    return _make(spec, int(budget.amount), policy)


def _make(spec: str, budget: int, policy: SearchPolicy | None = None) -> Strategy:
    name, _, rest = spec.partition(":")
    if name == ComputeOptimal.name and not rest:
        if policy is None:
            raise ValueError("compute-optimal: policy must be given, got none")
        choices = tuple(dict.fromkeys(policy.spec(budget, bin) for bin in range(len(policy.edges) + 1)))
        return ComputeOptimal(
            budget, policy.probes, lambda score: policy.spec(budget, policy.bin_of(score)), choices, _make
        )
    known: dict[str, Callable[..., Strategy]] = {**STRATEGIES, Adaptive.name: partial(Adaptive, make=_make)}
    if name not in known:
        raise ValueError(f"strategy must be one of {', '.join([*known, ComputeOptimal.name])}, got {name!r}")
    takes = [key for key in list(inspect.signature(known[name]).parameters)[1:] if key != "make"]
    options: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, found, value = pair.partition("=")
        if not found or key not in takes:
            raise ValueError(f"{name}: options must be NAME=VALUE of {', '.join(takes) or 'none'}, got {pair!r}")
        options[key] = _value(value)
    try:
        return known[name](budget, **options)
    except TypeError as error:
        raise ValueError(f"{name}: an option has a value of the wrong kind in {spec!r}: {error}") from error


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
