"""Chains of revisions: a model that reads its previous attempts before it makes the next one.

Its context is the last attempts, each an ordinary solution behind the problem's text, and the problem's text once more.
So the problem always stands right before the attempt. Run as a script to measure a model on held-out problems.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from pathlib import Path

import torch
from models import SEARCH_TEMPERATURE, load
from rollouts import Sampling, sample
from task import HELD_OUT_SIZES, Problem, extract_answer, held_out
from vocabulary import TokenIds

# So many previous attempts are in the context at most.
MEMORY = 4
# MEMORY + 1 times the longest prompt and the longest attempt, rounded up.
CONTEXT = 512
ATTEMPT_TOKENS = 64


def context(prompt: list[int], attempts: list[list[int]]) -> list[int]:
    """What stands before the next attempt."""
    return [*chain.from_iterable([*prompt, *attempt] for attempt in attempts[-MEMORY:]), *prompt]


class Reviser:
    """Samples chains of attempts and tells which attempts are right."""

    def __init__(self, model, tokenizer, seed: int, temperature: float = SEARCH_TEMPERATURE):
        self._model = model
        self._tokenizer = tokenizer
        self._ids = TokenIds.of(tokenizer)
        self._how = Sampling(temperature, (self._ids.eos,), ATTEMPT_TOKENS, self._ids.pad)
        self._generator = torch.Generator().manual_seed(seed)

    def first_attempts(self, problems: Sequence[Problem], count: int) -> list[list[list[int]]]:
        """`count` attempts at each problem, side by side: there is nothing to revise yet."""
        return sample(self._model, self._prompts(problems), count, self._how, self._generator)

    def chains(self, problems: Sequence[Problem], count: int, length: int) -> list[list[list[int]]]:
        """`count` chains of `length` attempts at each problem, the chains of one problem side by side."""
        prompts = [prompt for prompt in self._prompts(problems) for _ in range(count)]
        attempts: list[list[list[int]]] = [[] for _ in prompts]
        for _ in range(length):
            contexts = [context(prompt, previous) for prompt, previous in zip(prompts, attempts, strict=True)]
            rows = sample(self._model, contexts, 1, self._how, self._generator, batch=256)
            for previous, [attempt] in zip(attempts, rows, strict=True):
                # An attempt that was cut off is closed, so that the next one stands where it always stands.
                previous.append(attempt if attempt[-1] == self._ids.eos else [*attempt, self._ids.eos])
        return attempts

    def is_right(self, problem: Problem, attempt: list[int]) -> bool:
        return extract_answer(self._text(attempt)) == problem.answer

    def miscopied(self, problem: Problem, attempt: list[int]) -> list[bool]:
        """For every step of the attempt: is any token before its result wrong, given the results before it?"""
        value, flags = str(problem.start), []
        for i, line in enumerate(self._text(attempt).splitlines()):
            left, _, result = line.partition("=")
            op, operand = problem.operations[i] if i < len(problem.operations) else ("", "")
            flags.append(left != f"{i + 1}){value}{op}{operand}")
            value = result
        return flags

    def _text(self, attempt: list[int]) -> str:
        return self._tokenizer.decode(attempt, skip_special_tokens=True)

    def _prompts(self, problems: Sequence[Problem]) -> list[list[int]]:
        return self._tokenizer([problem.text for problem in problems])["input_ids"]


def share(flags: Sequence[bool]) -> float:
    return sum(flags) / max(1, len(flags))


@dataclass(frozen=True)
class Judged:
    """One attempt: is it right, and which of its steps copied something wrong?"""

    right: bool
    miscopied: list[bool]


def judged_chains(reviser: Reviser, problems: Sequence[Problem], count: int, length: int) -> list[list[Judged]]:
    """`count` judged chains of `length` attempts at each problem."""
    owners = [problem for problem in problems for _ in range(count)]
    pairs = zip(owners, reviser.chains(problems, count, length), strict=True)
    return [[Judged(reviser.is_right(at, one), reviser.miscopied(at, one)) for one in chain] for at, chain in pairs]


def revision_table(chains: list[list[Judged]]) -> list[str]:
    """One line a revision: how many are right, how many changed sides, and how many steps were copied wrong."""
    lines = ["| revision | pass@1 | right before, wrong now | wrong before, right now | steps copied wrong |"]
    lines.append("|---|---|---|---|---|")
    columns = list(zip(*chains, strict=True))
    for at, column in enumerate(columns):
        flips = " | "
        if at:
            both = [(before.right, now.right) for before, now in zip(columns[at - 1], column, strict=True)]
            flipped = share([not after for was, after in both if was])
            repaired = share([after for was, after in both if not was])
            flips = f"{flipped:.3f} | {repaired:.3f}"
        right, copied = share([one.right for one in column]), share([flag for one in column for flag in one.miscopied])
        lines.append(f"| {at + 1} | {right:.3f} | {flips} | {copied:.4f} |")
    pairs = [pair for attempts in chains for pair in pairwise(attempts)]
    flipped = share([not after.right for was, after in pairs if was.right])
    return [*lines, f"right attempts flipped to wrong by the next revision: {flipped:.3f}"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=Path("tts_kernels/assets/reviser"))
    parser.add_argument("--split", choices=HELD_OUT_SIZES, default="test")
    parser.add_argument("--chains", type=int, default=1, help="chains per problem")
    parser.add_argument("--length", type=int, default=8, help="attempts per chain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model, tokenizer = load(args.model)
    # The weights are stored in bf16, and sampling in it is twice as fast.
    reviser = Reviser(model.to(torch.bfloat16), tokenizer, args.seed)
    chains = judged_chains(reviser, held_out(args.split), args.chains, args.length)
    print("\n".join(revision_table(chains)))


if __name__ == "__main__":
    main()
