"""Beam search with a process reward model on plain transformers, by the scheme of Hugging Face's search-and-learn.

The same as there: ``budget`` beams make one step each, the reward model reads every beam from its first token to its
last with full logits and without a KV cache, the best ``budget / width`` beams are kept and repeated in turn until
there are ``budget`` again. Beams are rows of their own: nothing is shared between them.

Different there: vLLM generates, and its prefix cache keeps the KV of earlier steps, so that a round reads few tokens
again; here ``generate`` reads the whole text in every round and keeps its KV cache within the round. Steps there end at
a blank line and solutions at an end-of-sequence token; here a count of tokens ends both, so that no row needs padding.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import PreTrainedModel


@dataclass
class BeamStats:
    """What one search cost. ``generated_tokens``: drawn. ``policy_tokens``, ``prm_tokens``: fed, prompts included.

    ``solutions`` and ``scores``: the tokens behind the prompt, tags left out, and the last step's score, per beam.
    """

    generated_tokens: int = 0
    policy_tokens: int = 0
    prm_tokens: int = 0
    generation_seconds: float = 0.0
    scoring_seconds: float = 0.0
    solutions: list[list[int]] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)

    def add_round(self, before: Tensor, after: Tensor, tagged: Tensor, generation: float, scoring: float) -> None:
        """Count a round that made texts ``after`` of texts ``before`` and scored them as ``tagged``."""
        self.generated_tokens += after.numel() - before.numel()
        # The last token of a step is drawn, and fed only with the next step.
        self.policy_tokens += after.numel() - len(after)
        self.prm_tokens += tagged.numel()
        self.generation_seconds += generation
        self.scoring_seconds += scoring


@torch.inference_mode()
def beam_search(
    policy: PreTrainedModel,
    prm: PreTrainedModel,
    prompt_ids: Sequence[int],
    *,
    budget: int,
    width: int,
    depth: int,
    step_tokens: int,
    good_id: int,
    bad_id: int,
    tag_id: int,
    temperature: float,
    seed: int,
    prm_rows: int = 8,
) -> BeamStats:
    """Run ``depth`` rounds of ``budget`` beams; ``prm_rows`` beams are scored in one forward of the reward model.

    A row scores P(good_id) against bad_id at the ``tag_id`` behind each of its steps. An end-of-sequence token of the
    policy's generation config cannot be drawn. Raises ValueError for sizes out of range or a model in training mode.
    """
    counts = {"budget": budget, "width": width, "depth": depth, "step_tokens": step_tokens, "prm_rows": prm_rows}
    _check(policy, prm, prompt_ids, counts, temperature)
    stats, scores = BeamStats(), torch.empty(0)
    texts = torch.tensor(prompt_ids, device=policy.device).expand(budget, -1)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for done in range(depth):
            if done:
                texts = texts[scores.topk(budget // width).indices.to(texts.device).repeat(width)]
            begin = time.perf_counter()
            longer = generate_step(policy, texts, step_tokens, temperature)
            generated = time.perf_counter()
            tagged = add_tags(longer, len(prompt_ids), step_tokens, tag_id)
            scores = step_scores(prm, tagged, len(prompt_ids), step_tokens, (good_id, bad_id), prm_rows)[:, -1]
            stats.scores = scores.tolist()
            stats.add_round(texts, longer, tagged, generated - begin, time.perf_counter() - generated)
            texts = longer
    stats.solutions = texts[:, len(prompt_ids) :].tolist()
    return stats


def generate_step(policy: PreTrainedModel, texts: Tensor, step_tokens: int, temperature: float) -> Tensor:
    """Texts [B, T] to [B, T + step_tokens]: one step sampled behind each."""
    # The pad token is never used, generate() only wants one named.
    return policy.generate(  # type: ignore[operator, no-any-return]
        texts,
        attention_mask=torch.ones_like(texts),
        do_sample=True,
        temperature=temperature,
        top_k=0,
        top_p=1.0,
        max_new_tokens=step_tokens,
        min_new_tokens=step_tokens,
        pad_token_id=0,
    )


def add_tags(texts: Tensor, prompt_tokens: int, step_tokens: int, tag_id: int) -> Tensor:
    """Texts [B, T] with the tag behind each step."""
    steps = texts[:, prompt_tokens:].unflatten(1, (-1, step_tokens))
    tagged = torch.nn.functional.pad(steps, (0, 1), value=tag_id).flatten(1)
    return torch.cat([texts[:, :prompt_tokens], tagged], dim=1)


@torch.inference_mode()
def step_scores(
    prm: PreTrainedModel, tagged: Tensor, prompt_tokens: int, step_tokens: int, good_bad: tuple[int, int], rows: int
) -> Tensor:
    """P(good) at the tag of every step of tagged texts [B, T]: float32 [B, steps], from forwards of ``rows`` texts."""
    # By position, not by token: a sampled token may happen to be the tag.
    tags = slice(prompt_tokens + step_tokens, None, step_tokens + 1)
    parts = []
    for chunk in tagged.to(prm.device).split(rows):
        logits = prm(input_ids=chunk, use_cache=False).logits
        parts.append(logits[:, tags, list(good_bad)].float().softmax(-1)[..., 0])
        # Before the next chunk's logits are made, or two of them are alive.
        del logits
    return torch.cat(parts)


def _check(
    policy: PreTrainedModel, prm: PreTrainedModel, prompt_ids: Sequence[int], counts: dict[str, int], temperature: float
) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"beam_search: {name} must be at least 1, got {count}")
    if counts["budget"] % counts["width"]:
        raise ValueError(f"beam_search: budget must be a multiple of width {counts['width']}, got {counts['budget']}")
    if not len(prompt_ids):
        raise ValueError("beam_search: prompt_ids must hold at least one token, got none")
    if not temperature > 0:
        raise ValueError(f"beam_search: temperature must be positive, got {temperature}")
    for name, model in (("policy", policy), ("prm", prm)):
        if model.training:
            raise ValueError(f"beam_search: {name} must be in eval mode, got a model in training mode")
