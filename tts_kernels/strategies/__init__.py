"""Searches: one file each, checkable against its paper."""

from __future__ import annotations

import inspect
from typing import Any

from tts_kernels.strategies.base import Allocation, Decision, Play, Strategy, allocate, settle
from tts_kernels.strategies.beam import Beam
from tts_kernels.strategies.best_of_n import BestOfN, Greedy
from tts_kernels.strategies.dvts import DVTS
from tts_kernels.strategies.ets import ETS
from tts_kernels.strategies.lookahead import Lookahead
from tts_kernels.strategies.mcts import MCTS
from tts_kernels.strategies.particles import ParticleFilter
from tts_kernels.strategies.rebase import Rebase
from tts_kernels.strategies.revisions import Revisions

__all__ = [
    "DVTS", "ETS", "MCTS", "STRATEGIES", "Allocation", "Beam", "BestOfN", "Decision", "Greedy", "Lookahead",
    "ParticleFilter", "Play", "Rebase", "Revisions", "Strategy", "allocate", "make_strategy", "settle",
]  # fmt: skip

STRATEGIES: dict[str, type[Strategy]] = {
    kind.name: kind for kind in (Greedy, BestOfN, Beam, Lookahead, DVTS, Rebase, ETS, MCTS, ParticleFilter, Revisions)
}


def make_strategy(spec: str, budget: int) -> Strategy:
    """``"NAME"`` or ``"NAME:OPTION=VALUE,..."`` with the options of the strategy's class, e.g. ``"beam:width=sqrt"``.

    Raises ValueError for an unknown name, option or value.
    """
    name, _, rest = spec.partition(":")
    if name not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, got {name!r}")
    known = list(inspect.signature(STRATEGIES[name]).parameters)[1:]
    options: dict[str, Any] = {}
    for pair in filter(None, rest.split(",")):
        key, found, value = pair.partition("=")
        if not found or key not in known:
            raise ValueError(f"{name}: options must be NAME=VALUE of {', '.join(known) or 'none'}, got {pair!r}")
        options[key] = _value(value)
    try:
        return STRATEGIES[name](budget, **options)
    except TypeError as error:
        raise ValueError(f"{name}: an option has a value of the wrong kind in {spec!r}: {error}") from error


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            pass
    return text
