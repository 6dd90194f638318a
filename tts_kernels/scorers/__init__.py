"""Scorers give every step a score in [0, 1]. ``load_scorer`` makes one from a spec given on the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tts_kernels.scorers.base import AGGREGATES, Aggregate, Scorer
from tts_kernels.scorers.log_prob import LogProbScorer
from tts_kernels.scorers.prm import StepSoftmaxPrm

__all__ = ["AGGREGATES", "Aggregate", "LogProbScorer", "Scorer", "StepSoftmaxPrm", "load_scorer"]


def load_scorer(spec: str, *, aggregate: Aggregate | None = None, **options: Any) -> Scorer:
    """``"logprob"``, or ``"prm:PATH"`` for a folder with a causal LM and a ``scorer.json``.

    aggregate: how step scores combine along a path; None takes what ``scorer.json`` says. options: passed on to
    the PRM (``kv_bytes``, ``page_size``, ``backend``, ``dtype``, ``device``).
    Raises ValueError for another spec or a folder that is not a PRM.
    """
    kind, _, path = spec.partition(":")
    if spec == "logprob":
        return LogProbScorer()
    if kind == "prm" and path:
        return StepSoftmaxPrm.from_pretrained(Path(path), aggregate=aggregate, **options)
    raise ValueError(f"load_scorer: spec must be 'logprob' or 'prm:PATH', got {spec!r}")
