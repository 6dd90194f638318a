"""Train the reviser: the policy, taught to write a right solution behind wrong ones (Snell et al., arXiv 2408.03314).

A training text is 0 to 4 previous attempts and a last one, each behind the problem; all are samples of the policy. The
loss is on the last attempt, and on what the others copy: their results are not learned. With attempts before it, the
last one is mostly right. If the attempt right before it is wrong, it is the one closest to a right one, so that there
is something to learn from it. Some previous attempts are right, so that not every attempt is a reason to change. With
nothing before it the last attempt is any sample of the policy, so the first attempts of the reviser stay the policy's.
"""

import argparse
import random
import time
from copy import deepcopy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F
from models import SEARCH_TEMPERATURE, Trainer, load, pad_right, parameter_count, save
from revisions import CONTEXT, MEMORY, Reviser, judged_chains, share
from task import held_out, training_problems
from torch import Tensor
from train_prm import Batches
from vocabulary import TokenIds


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=Path("tts_kernels/assets/policy"))
    parser.add_argument("--begin", type=Path, help="the model to train, else the policy")
    parser.add_argument("--out", type=Path, default=Path("tts_kernels/assets/reviser"))
    parser.add_argument("--problems", type=int, default=1500)
    parser.add_argument("--samples", type=int, default=16, help="attempts per problem")
    parser.add_argument("--texts", type=int, default=10, help="training texts per problem")
    parser.add_argument("--right-before", type=float, default=0.3, help="share of right ones among previous attempts")
    parser.add_argument("--right-last", type=float, default=0.6, help="share of right attempts as last ones, at least")
    parser.add_argument("--steps", type=int, default=350, help="updates at most")
    parser.add_argument("--every", type=int, default=120, help="updates between two measurements")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--seed", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


@dataclass(frozen=True)
class Attempts:
    """A problem's prompt and the policy's attempts at it."""

    prompt: list[int]
    right: list[list[int]]
    wrong: list[list[int]]


@dataclass(frozen=True)
class Text:
    """A training text and the places of the tokens to learn."""

    tokens: list[int]
    learned: list[int]


def collect(reviser: Reviser, tokenizer, count: int, samples: int, seed: int, chunk: int = 500) -> list[Attempts]:
    """The policy's attempts at `count` training problems. An attempt that was cut off is left out."""
    stream = training_problems(2_000_000 + seed)
    eos = TokenIds.of(tokenizer).eos
    data = []
    start = time.perf_counter()
    for done in range(0, count, chunk):
        problems = list(islice(stream, min(chunk, count - done)))
        for problem, attempts in zip(problems, reviser.first_attempts(problems, samples), strict=True):
            sides: dict[bool, list[list[int]]] = {True: [], False: []}
            for attempt in attempts:
                if attempt[-1] == eos:
                    sides[reviser.is_right(problem, attempt)].append(attempt)
            data.append(Attempts(tokenizer(problem.text)["input_ids"], sides[True], sides[False]))
        print(f"{done + len(problems)} problems, {time.perf_counter() - start:.0f} s", flush=True)
    return data


def steps_of(attempt: list[int], newline: int) -> list[tuple[int, ...]]:
    steps: list[list[int]] = [[]]
    for token in attempt:
        steps[-1].append(token)
        if token == newline:
            steps.append([])
    return [tuple(step) for step in steps]


def edit_distance(left: list, right: list) -> int:
    """The fewest items to insert, delete or replace to make one list of the other (Levenshtein)."""
    row = list(range(len(right) + 1))
    for i, item in enumerate(left, 1):
        diagonal, row[0] = row[0], i
        for j, other in enumerate(right, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (item != other))
    return row[-1]


class Writer:
    """Puts attempts together to training texts."""

    def __init__(self, right_before: float, right_last: float, tokenizer, seed: int):
        self._right_before = right_before
        self._right_last = right_last
        self._newline = TokenIds.of(tokenizer).newline
        self._equals = tokenizer.convert_tokens_to_ids("=")
        self._rng = random.Random(f"revisions {seed}")

    def text(self, attempts: Attempts) -> Text:
        """An attempt behind 0 to MEMORY previous ones; behind none where no attempt is right."""
        every = attempts.right + attempts.wrong
        if not attempts.right or (count := self._rng.randint(0, MEMORY)) == 0:
            return self._text(attempts.prompt, [], self._rng.choice(every))
        right = self._rng.choice(attempts.right)
        target = right if self._rng.random() < self._right_last else self._rng.choice(every)
        sides = [self._rng.random() < self._right_before or not attempts.wrong for _ in range(count)]
        previous = [self._rng.choice(attempts.right if side else attempts.wrong) for side in sides]
        if not sides[-1]:
            previous[-1] = self._closest(attempts.wrong, right)
        return self._text(attempts.prompt, previous, target)

    def _text(self, prompt: list[int], previous: list[list[int]], target: list[int]) -> Text:
        """Every token of the target is learned; of the previous attempts what is copied, but not their results."""
        tokens, learned = [], []
        for at, attempt in enumerate([*previous, target]):
            tokens += prompt
            for token in attempt:
                if at == len(previous) or tokens[-1] != self._equals:
                    learned.append(len(tokens))
                tokens.append(token)
        return Text(tokens, learned)

    def _closest(self, candidates: list[list[int]], target: list[int]) -> list[int]:
        goal = steps_of(target, self._newline)
        return min(candidates, key=lambda attempt: edit_distance(steps_of(attempt, self._newline), goal))


def revision_loss(model, texts: list[Text], pad: int) -> Tensor:
    """Cross-entropy of the tokens to learn.

    It is taken at the temperature of sampling: there the policy has the least loss on its own samples, so they do not
    change it, and attempts keep the variety of the samples.
    """
    tokens = pad_right([text.tokens for text in texts], pad)
    hidden = model.model(tokens, use_cache=False).last_hidden_state
    spots = [(row, at) for row, text in enumerate(texts) for at in text.learned]
    rows, ends = torch.tensor(spots).T
    return F.cross_entropy(model.lm_head(hidden[rows, ends - 1]) / SEARCH_TEMPERATURE, tokens[rows, ends])


@dataclass(frozen=True)
class Check:
    """pass@1 of each attempt of chains of 4, and how many of all steps were copied wrong."""

    right: list[float]
    miscopied: float

    def good(self) -> bool:
        """First attempts like the policy's, better ones behind them, and operands that are right."""
        return abs(self.right[0] - 0.5) <= 0.06 and min(self.right[1:]) >= 0.6 and self.miscopied < 0.02

    def __str__(self) -> str:
        return f"pass@1 of attempts {' '.join(f'{part:.3f}' for part in self.right)}, miscopied {self.miscopied:.4f}"


def check(model, tokenizer, seed: int) -> Check:
    """Measured on 60 validation problems, with 2 chains each, in bf16 like the weights that are stored."""
    reviser = Reviser(deepcopy(model).to(torch.bfloat16), tokenizer, seed)
    chains = judged_chains(reviser, held_out("validation")[:60], count=2, length=4)
    right = [share([one.right for one in column]) for column in zip(*chains, strict=True)]
    return Check(right, share([flag for attempts in chains for one in attempts for flag in one.miscopied]))


def train(model, tokenizer, texts: list[Text], args: argparse.Namespace) -> None:
    """Updates until the model is good by `check`, `args.steps` at most."""
    trainer, batches = Trainer(model, args.steps, args.lr, warmup=20), Batches(texts, random.Random(args.seed))
    pad = TokenIds.of(tokenizer).pad
    start, losses = time.perf_counter(), []
    for step in range(1, args.steps + 1):
        losses.append(trainer.step(revision_loss(model, batches.pick(args.batch), pad)))
        if step % args.every == 0 or step == args.steps:
            recent, found = losses[-args.every :], check(model, tokenizer, args.seed)
            loss = sum(recent) / len(recent)
            print(f"step {step} loss {loss:.4f}, {found}, {time.perf_counter() - start:.0f} s", flush=True)
            if found.good():
                return


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    policy, tokenizer = load(args.policy)
    # Sampling in bf16 is twice as fast.
    sampler = Reviser(policy.to(torch.bfloat16), tokenizer, args.seed)
    data = collect(sampler, tokenizer, args.problems, args.samples, args.seed)
    writer = Writer(args.right_before, args.right_last, tokenizer, args.seed)
    # A problem without any attempt that ended has nothing to learn from.
    texts = [writer.text(attempts) for attempts in data if attempts.right + attempts.wrong for _ in range(args.texts)]
    model, _ = load(args.begin or args.policy)
    model.config.max_position_embeddings = tokenizer.model_max_length = CONTEXT
    print(f"{parameter_count(model):,} parameters, {len(texts)} texts", flush=True)
    print(f"before training: {check(model, tokenizer, args.seed)}", flush=True)
    train(model, tokenizer, texts, args)
    save(model, tokenizer, args.out)


if __name__ == "__main__":
    main()
