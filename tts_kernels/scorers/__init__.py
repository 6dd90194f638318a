"""Scorers give every step a score. ``load_scorer`` makes one from a spec given on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from tts_kernels.scorers.base import AGGREGATES, Aggregate, HostScorer, PathTooLong, Scorer, Scores, Spent
from tts_kernels.scorers.checkpoint import Checkpoint
from tts_kernels.scorers.families import FAMILIES, check_architecture, family_of, single_token
from tts_kernels.scorers.generative import GenerativeVerifier, Verification
from tts_kernels.scorers.heads import causal, vocabulary_rows, with_activation
from tts_kernels.scorers.log_prob import LogProbScorer
from tts_kernels.scorers.prm import Prm
from tts_kernels.scorers.reader import InlineReader, Reader, TextReader, TokenReader
from tts_kernels.scorers.steps import PolicySide
from tts_kernels.scorers.verifiable import VerifiableScorer
from tts_kernels.scorers.verifiers import VERIFIERS

__all__ = [
    "AGGREGATES", "FAMILIES", "Aggregate", "GenerativeVerifier", "HostScorer", "LogProbScorer", "PathTooLong",
    "PolicySide", "Prm", "Scorer", "Scores", "Spent", "VerifiableScorer", "Verification", "load_scorer",
]  # fmt: skip

Tokens = Literal["auto", "ids", "text"]


def load_scorer(
    spec: str,
    *,
    aggregate: Aggregate | None = None,
    tokens: Tokens = "auto",
    activation: Literal["raw", "sigmoid"] | None = None,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    trust_remote_code: bool = False,
    **options: Any,
) -> Scorer:
    """``"FAMILY:PATH_OR_ID"`` with a family of FAMILIES; ``"prm:PATH_OR_ID"``, whose family the model's config or its
    ``scorer.json`` tells; ``"genrm:PATH_OR_ID"``, a causal LM that judges in words; ``"gsm8k"``, ``"math"``,
    ``"ifeval"``, which compare with the problem's answer; ``"logprob"``.

    aggregate: how step scores combine along a path; None takes the family's published way, or what ``scorer.json``
    says. tokens: "ids" hands the policy's token ids over as they are, "text" encodes the text of its steps, "auto" does
    the first where both tokenizers have the same vocabulary. activation: for heads with one output, instead of the
    published one. options: ``kv_bytes`` or ``num_pages`` for a pool of its own instead of a share of the policy's
    memory, ``page_size``, ``backend``; for genrm those of GenerativeVerifier.
    Raises ValueError for another spec, or a model that is not of the family.
    """
    kind, _, path = spec.partition(":")
    if spec not in ("logprob", *VERIFIERS) and (not path or kind not in ("prm", "genrm", *FAMILIES)):
        alone, families = ", ".join(["logprob", *VERIFIERS]), ", ".join(["prm", "genrm", *FAMILIES])
        raise ValueError(f"load_scorer: spec must be one of {alone} or FAMILY:PATH_OR_ID of {families}; got {spec!r}")
    if tokens not in get_args(Tokens):
        raise ValueError(f"load_scorer: tokens must be auto, ids or text, got {tokens!r}")
    if kind in ("logprob", "genrm", *VERIFIERS):
        if aggregate is not None:
            raise ValueError(f"load_scorer: aggregate must be left out for {kind}, got {aggregate!r}")
        if kind == "genrm":
            return GenerativeVerifier.from_pretrained(
                path, dtype=dtype, device=device, trust_remote_code=trust_remote_code, **options
            )
        return LogProbScorer() if kind == "logprob" else VerifiableScorer(kind)
    checkpoint = Checkpoint(kind, path, dtype=dtype, device=device, trust_remote_code=trust_remote_code)
    return _prm(checkpoint, aggregate, tokens, activation, options)


def _prm(
    checkpoint: Checkpoint, aggregate: Aggregate | None, tokens: Tokens, activation: Any, options: dict[str, Any]
) -> Prm:
    """A reward model of the family that the checkpoint is named by, or that it tells itself."""
    family, settings_path = checkpoint.name, Path(checkpoint.path) / "scorer.json"
    if family == "prm":
        settings = json.loads(settings_path.read_text()) if settings_path.is_file() else {}
        aggregate = aggregate or settings.get("aggregate")
        if settings.get("kind") == "step_softmax":
            return _inline(checkpoint, settings, aggregate=aggregate or "last", **options)
        family = settings.get("kind") or family_of(checkpoint)
        if family not in FAMILIES:
            known = ", ".join(["step_softmax", *FAMILIES])
            raise ValueError(f"load_scorer: kind in scorer.json must be one of {known}, got {family!r}")
    checkpoint.name = family
    check_architecture(checkpoint, family)
    model, head = FAMILIES[family].load(checkpoint)
    combined = aggregate or FAMILIES[family].aggregate

    def reader(policy: PolicySide) -> Reader:
        return _reader(family, checkpoint.tokenizer, policy, tokens, combined)

    return Prm(model, with_activation(head, activation), reader, aggregate=combined, **options)


def _reader(family: str, tokenizer: Any, policy: PolicySide, tokens: Tokens, aggregate: Aggregate) -> Reader:
    separator = policy.separator if isinstance(policy.separator, str) else "\n\n"
    form = FAMILIES[family].layout(tokenizer, separator)
    if aggregate == "model":
        form = form.as_whole(separator)
    if tokens == "auto":
        if policy.tokenizer is None:
            raise ValueError(f"{family}: tokens must be 'ids' where the decoder has no tokenizer, got 'auto'")
        tokens = "ids" if policy.tokenizer.get_vocab() == tokenizer.get_vocab() else "text"
    return (TokenReader if tokens == "ids" else TextReader)(family, tokenizer, form, policy)


def _inline(checkpoint: Checkpoint, settings: dict[str, Any], **options: Any) -> Prm:
    """A causal LM that reads the policy's own tokens: ``{"kind": "step_softmax", "separator": ..., "good_token": ...,
    "bad_token": ..., "aggregate": ...}``, tokens as text, the last one a default."""
    names = ("good_token", "bad_token", "separator")
    missing = [name for name in names if name not in settings]
    if missing:
        raise ValueError(f"prm: scorer.json must name {', '.join(names)}; {missing[0]} is missing")
    tokenizer = checkpoint.tokenizer
    good, bad, tag = (single_token("prm", tokenizer, settings[name]) for name in names)
    model = causal(checkpoint)

    def reader(policy: PolicySide) -> Reader:
        if policy.tokenizer is not None and policy.tokenizer.get_vocab() != tokenizer.get_vocab():
            raise ValueError("prm: a step_softmax model must share the policy's tokenizer, got another vocabulary")
        return InlineReader(tag)

    return Prm(model, vocabulary_rows(model, [good, bad]), reader, **options)
