"""Families of reward models: how each was published to be read. A family is a layout and a head."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification, PreTrainedModel

from tts_kernels.scorers import format as layouts
from tts_kernels.scorers import heads
from tts_kernels.scorers.base import Aggregate
from tts_kernels.scorers.checkpoint import Checkpoint
from tts_kernels.scorers.format import Format
from tts_kernels.scorers.heads import ScoreHead

Loaded = tuple[PreTrainedModel, ScoreHead]
_QWEN_SYSTEM = "Please reason step by step, and put your final answer within \\boxed{}."


@dataclass(frozen=True)
class Family:
    """``layout(tokenizer, separator)``: how a path is written. ``load``: the backbone and its head.

    ``architectures``: how the names of the classes end that such models are saved from. ``aggregate``: the published
    one.
    """

    layout: Callable[[Any, str], Format]
    load: Callable[[Checkpoint], Loaded]
    architectures: tuple[str, ...]
    aggregate: Aggregate = "last"


def single_token(name: str, tokenizer: Any, text: str, behind: str = "") -> int:
    """The id of ``text`` where ``behind`` stands before it. Raises ValueError when it is not one token."""
    before = tokenizer.encode(behind, add_special_tokens=False) if behind else []
    both = tokenizer.encode(behind + text, add_special_tokens=False)
    ids = both[len(before) :]
    if both[: len(before)] != before or len(ids) != 1:
        raise ValueError(
            f"{name}: {text!r} must be one token of the reward model's tokenizer, got {both} for {behind + text!r}"
        )
    return ids[0]


def _words(good: str, bad: str, behind: str = "") -> Callable[[Checkpoint], Loaded]:
    """Soft-max over two rows of the vocabulary."""

    def load(checkpoint: Checkpoint) -> Loaded:
        ids = [single_token(checkpoint.name, checkpoint.tokenizer, word, behind) for word in (good, bad)]
        model = heads.causal(checkpoint)
        return model, heads.vocabulary_rows(model, ids)

    return load


def _mean(checkpoint: Checkpoint) -> Loaded:
    model = heads.causal(checkpoint)
    return model, heads.vocabulary_mean(model)


def _outcome(checkpoint: Checkpoint) -> Loaded:
    if checkpoint.architecture == "Qwen2ForRewardModel":
        return heads.two_layers(checkpoint, 1)
    return heads.classifier(checkpoint, AutoModelForSequenceClassification, 1)


def _tag(tag: str, between: str = "\n") -> Callable[[Any, str], Format]:
    return lambda tokenizer, separator: layouts.tagged(tag, between)


_CAUSAL = ("ForCausalLM",)
FAMILIES: dict[str, Family] = {
    # Wang et al. 2312.08935, and models trained on its format (ER-PRM).
    "math-shepherd": Family(_tag(" ки"), _words(" +", " -", "x"), _CAUSAL),
    "er-prm": Family(_tag(" ки"), _words(" +", " -", "x"), _CAUSAL),
    # OpenR, 2410.09671.
    "math-psa": Family(_tag(" \n\n\n\n\n", ""), _words(" +", " -", "x"), _CAUSAL),
    "rlhflow": Family(lambda tokenizer, _: layouts.chat_turns(tokenizer, "+"), _words("+", "-"), _CAUSAL),
    "skywork": Family(
        lambda tokenizer, _: layouts.lines(tokenizer),
        lambda checkpoint: heads.value_head(checkpoint, "sigmoid"),
        ("Qwen2ForPrmModel", "ForCausalLM"),
    ),
    # Zhang et al. 2501.07301.
    "qwen": Family(
        lambda tokenizer, _: layouts.chat_tags(tokenizer, "<extra_0>", _QWEN_SYSTEM),
        lambda checkpoint: heads.two_layers(checkpoint, 2),
        ("Qwen2ForProcessRewardModel",),
        "prod",
    ),
    "trl": Family(
        lambda tokenizer, _: layouts.trl_lines(tokenizer),
        lambda checkpoint: heads.classifier(checkpoint, AutoModelForTokenClassification, 2),
        ("ForTokenClassification",),
    ),
    # Li and Li 2410.11287.
    "pqm": Family(
        lambda *_: layouts.pqm(),
        lambda checkpoint: heads.value_head(checkpoint, "raw"),
        _CAUSAL,
        "min",
    ),
    # Wu et al. 2408.00724.
    "llemma": Family(_tag(" ки"), _mean, _CAUSAL),
    "orm": Family(layouts.chat_answer, _outcome, ("ForSequenceClassification", "Qwen2ForRewardModel")),
}


def family_of(checkpoint: Checkpoint) -> str:
    """The family that a model's config tells. Raises ValueError where it tells none."""
    for name in ("qwen", "trl", "orm"):
        if checkpoint.architecture.endswith(FAMILIES[name].architectures):
            return name
    if checkpoint.architecture == "Qwen2ForPrmModel":
        return "skywork"
    raise ValueError(
        f"prm: {checkpoint.path!r} must be named by its family, one of {', '.join(FAMILIES)}: its architecture "
        f"{checkpoint.architecture!r} does not tell, and it has no scorer.json"
    )


def check_architecture(checkpoint: Checkpoint, name: str) -> None:
    """Raise ValueError for a model that was saved from a class that no model of the family has."""
    wanted = FAMILIES[name].architectures
    if checkpoint.architecture and not checkpoint.architecture.endswith(wanted):
        raise ValueError(
            f"{name}: {checkpoint.path!r} must be saved from {' or '.join(wanted)}, got {checkpoint.architecture}"
        )
