"""Acceleration backend for tree-search decoding of language models."""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

# Public names and where they live. Loaded on first use, so that importing one op does not import transformers.
_HOMES = {
    "Adaptive": "strategies",
    "Beam": "strategies",
    "BestOfN": "strategies",
    "Budget": "strategies",
    "ComputeOptimal": "strategies",
    "DVTS": "strategies",
    "Decoder": "decoder",
    "ETS": "strategies",
    "Greedy": "strategies",
    "Knockout": "tournaments",
    "League": "tournaments",
    "Lookahead": "strategies",
    "MCTS": "strategies",
    "ParticleFilter": "strategies",
    "Problem": "search",
    "Rebase": "strategies",
    "Revisions": "strategies",
    "RunStats": "search",
    "Sampling": "search",
    "SearchPolicy": "compute_optimal",
    "SearchResult": "search",
    "load_scorer": "scorers",
    "make_strategy": "strategies",
    "token_beam_search": "token_beam",
    "why_not": "backends",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
