"""Sampling from a policy and scoring with a process reward model, in plain transformers and in large batches."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache


@dataclass(frozen=True)
class Sampling:
    """How to continue a prompt. Temperature 0 takes the likeliest token."""

    temperature: float
    stop_ids: tuple[int, ...]
    max_new_tokens: int
    pad_id: int


def by_length(sequences: list[list[int]], batch: int) -> list[list[int]]:
    """Indices of the sequences in batches of one length each, so that nothing is padded."""
    groups = defaultdict(list)
    for i, tokens in enumerate(sequences):
        groups[len(tokens)].append(i)
    return [group[at : at + batch] for group in groups.values() for at in range(0, len(group), batch)]


@torch.inference_mode()
def sample(
    model, prompts: list[list[int]], count: int, how: Sampling, generator: torch.Generator, batch: int = 1024
) -> list[list[list[int]]]:
    """`count` continuations of each prompt, each up to and including its stop token or cut at the limit."""
    results: list[list[list[int]]] = [[] for _ in prompts]
    for indices in by_length(prompts, max(1, batch // count)):
        rows = _continue(model, torch.tensor([prompts[i] for i in indices]), count, how, generator).tolist()
        for at, tokens in enumerate(rows):
            results[indices[at // count]].append(_until_stop(tokens, how.stop_ids))
    return results


def _continue(model, prompts: Tensor, count: int, how: Sampling, generator: torch.Generator) -> Tensor:
    """[B, T] prompts -> [B * count, new] tokens. Each prompt is read once and its cache repeated."""
    cache = DynamicCache(config=model.config)
    logits = model(prompts, past_key_values=cache, logits_to_keep=1).logits[:, -1]
    if count > 1:
        cache.batch_repeat_interleave(count)
        logits = logits.repeat_interleave(count, dim=0)
    done = torch.zeros(len(logits), dtype=torch.bool)
    stops = torch.tensor(how.stop_ids)
    new_tokens = []
    while True:
        chosen = torch.where(done, how.pad_id, _choose(logits, how.temperature, generator))
        new_tokens.append(chosen)
        done |= torch.isin(chosen, stops)
        if done.all() or len(new_tokens) == how.max_new_tokens:
            return torch.stack(new_tokens, dim=1)
        logits = model(chosen[:, None], past_key_values=cache).logits[:, -1]


def _choose(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.float() / temperature, dim=-1)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def _until_stop(tokens: list[int], stop_ids: tuple[int, ...]) -> list[int]:
    for i, token in enumerate(tokens):
        if token in stop_ids:
            return tokens[: i + 1]
    return tokens


def step_ends(tokens: Sequence[int], prompt_length: int, end_ids: tuple[int, ...]) -> list[int]:
    """Positions of the last token of every complete step after the prompt."""
    return [i for i in range(prompt_length, len(tokens)) if tokens[i] in end_ids]


@torch.inference_mode()
def step_scores(
    prm,
    sequences: list[list[int]],
    prompt_lengths: list[int],
    end_ids: tuple[int, ...],
    verdict_ids: list[int],
    batch: int = 256,
) -> list[list[float]]:
    """P(good) at the last token of every step. `verdict_ids` are the ids of <good> and <bad>."""
    scores: list[list[float]] = [[] for _ in sequences]
    for indices in by_length(sequences, batch):
        logits = prm(torch.tensor([sequences[i] for i in indices]), use_cache=False).logits
        good = torch.softmax(logits[..., verdict_ids].float(), dim=-1)[..., 0]
        for row, i in enumerate(indices):
            ends = step_ends(sequences[i], prompt_lengths[i], end_ids)
            scores[i] = good[row, ends].tolist()
    return scores
