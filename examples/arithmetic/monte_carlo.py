"""Monte-Carlo labels for the process reward model, as in Math-Shepherd (arXiv 2312.08935), with hard estimation.

A step is good when any sampled completion of its prefix reaches the right answer. Many solutions of one problem are
sampled; those that share a prefix are the completions of that prefix, so one pass of sampling labels every step of
every solution. Where no completion is right and there were few of them, the step stays without a label, and so does
everything behind the first bad step: the labels are about single steps.
"""

import random
from collections import defaultdict
from dataclasses import dataclass

import torch
from models import SEARCH_TEMPERATURE
from rollouts import Sampling, sample, step_ends
from task import Problem, extract_answer
from vocabulary import TokenIds

# So many completions, all of them wrong, make a step bad.
ENOUGH = 4


@dataclass(frozen=True)
class Example:
    """A problem, a solution, and labels (1 good, 0 bad) at two tokens of each labelled step: its result and its end.

    ``right``: the whole solution is labelled good and ends.
    """

    tokens: list[int]
    positions: list[int]
    labels: list[float]
    right: bool


class Labeller:
    """Samples solutions with the policy and turns them into examples."""

    def __init__(self, policy, tokenizer, seed: int):
        self._policy = policy
        self._tokenizer = tokenizer
        self._ids = TokenIds.of(tokenizer)
        self._how = Sampling(SEARCH_TEMPERATURE, (self._ids.eos,), 64, self._ids.pad)
        self._generator = torch.Generator().manual_seed(seed)

    def on_policy(self, problems: list[Problem], samples: int) -> list[list[Example]]:
        """The distinct sampled solutions of every problem, with the labels of their steps."""
        prompts = self._tokenizer([problem.text for problem in problems])["input_ids"]
        rollouts = sample(self._policy, prompts, samples, self._how, self._generator)
        return [self._examples(*both) for both in zip(problems, prompts, rollouts, strict=True)]

    def _examples(self, problem: Problem, prompt: list[int], rollouts: list[list[int]]) -> list[Example]:
        ends_of = {}
        counts = defaultdict(lambda: [0, 0])
        for tail in rollouts:
            tokens = tuple(prompt + tail)
            solution = self._tokenizer.decode(tail, skip_special_tokens=True)
            right = tokens[-1] == self._ids.eos and extract_answer(solution) == problem.answer
            ends_of[tokens] = step_ends(tokens, len(prompt), self._ids.step_ends)
            for end in ends_of[tokens]:
                counts[tokens[: end + 1]][0] += right
                counts[tokens[: end + 1]][1] += 1
        return [self._label(tokens, ends, counts) for tokens, ends in ends_of.items()]

    @staticmethod
    def _label(tokens: tuple[int, ...], ends: list[int], counts: dict) -> Example:
        positions, labels = [], []
        for end in ends:
            wins, seen = counts[tokens[: end + 1]]
            if wins == 0 and seen < ENOUGH:
                break
            positions += [end - 1, end]
            labels += [float(wins > 0)] * 2
            if wins == 0:
                break
        right = len(positions) == 2 * len(ends) > 0 and all(labels) and ends[-1] == len(tokens) - 1
        return Example(list(tokens), positions, labels, right)


def replaced(example: Example, share: float, results: list[int], rng: random.Random) -> tuple[Example, list[int]]:
    """A right solution of which about ``share`` of the results were replaced, and the results that were there.

    The labels say for every step whether its own result was kept. Results stand twice, like the labels.
    """
    tokens, labels, originals = list(example.tokens), [], []
    for at in example.positions[::2]:
        original = tokens[at]
        keep = rng.random() >= share
        if not keep:
            tokens[at] = rng.choice([token for token in results if token != original])
        labels += [float(keep)] * 2
        originals += [original] * 2
    return Example(tokens, example.positions, labels, False), originals
