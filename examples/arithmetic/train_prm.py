"""Train the process reward model on Monte-Carlo labels of the policy's own steps (see monte_carlo.py).

Two phases. First only solutions that roll-outs proved right, some of their results replaced: the model tells which and
names the result that was there, and so learns to hold a result against what it knows itself. Labels of the policy's
steps alone do not make a small model do that in any number of updates one core can afford. Then those labels, half and
half with replaced results.
"""

import argparse
import random
import time
from itertools import islice
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import torch
import torch.nn.functional as F
from models import Trainer, build_llama, load, pad_right, parameter_count, save
from monte_carlo import Example, Labeller, replaced
from rollouts import step_scores
from task import held_out, right_so_far, training_problems
from torch import Tensor
from vocabulary import BAD, GOOD, NUMBERS, SEPARATOR, TokenIds

Item = TypeVar("Item", bound="HasTokens")

SCORER = {
    "kind": "step_softmax",
    "separator": SEPARATOR,
    "good_token": GOOD,
    "bad_token": BAD,
    "aggregate": "prod",
}


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--policy", type=Path, default=Path("tts_kernels/assets/policy"))
    parser.add_argument("--out", type=Path, default=Path("tts_kernels/assets/prm"))
    parser.add_argument("--problems", type=int, default=5000)
    parser.add_argument("--samples", type=int, default=16, help="roll-outs per problem")
    parser.add_argument("--extra-layers", type=int, default=2, help="layers on top of the policy's")
    parser.add_argument("--warm-up", type=int, default=600, help="updates on replaced results")
    parser.add_argument("--steps", type=int, default=600, help="updates on Monte-Carlo labels")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def collect(labeller: Labeller, count: int, samples: int, seed: int, chunk: int = 1000) -> list[Example]:
    """The labelled solutions of ``count`` training problems."""
    stream = training_problems(1_000_000 + seed)
    data: list[Example] = []
    start = time.perf_counter()
    for done in range(0, count, chunk):
        problems = list(islice(stream, min(chunk, count - done)))
        for examples in labeller.on_policy(problems, samples):
            data += [example for example in examples if example.positions]
        seconds = time.perf_counter() - start
        print(f"{done + len(problems)} problems, {len(data)} solutions, {seconds:.0f} s", flush=True)
    return data


def grown_from(policy, ids: TokenIds, extra_layers: int):
    """A copy of the policy with more layers on top and a fresh verdict head."""
    config = policy.config
    layers, heads = config.num_hidden_layers, config.num_attention_heads
    prm = build_llama(ids, config.hidden_size, layers + extra_layers, heads, config.num_key_value_heads)
    prm.load_state_dict(prm.state_dict() | policy.state_dict())
    with torch.no_grad():
        for layer in prm.model.layers[layers:]:
            # Wider than the library's default, which is made for large models and leaves a small one idle for long.
            for name, weight in layer.named_parameters():
                if weight.ndim == 2:
                    torch.nn.init.normal_(weight, std=0.027 if "o_proj" in name or "down_proj" in name else 0.09)
        prm.lm_head.weight[[ids.good, ids.bad]] = 0.0
    return prm


class HasTokens(Protocol):
    @property
    def tokens(self) -> list[int]: ...


class Batches(Generic[Item]):
    """Random examples of about equal lengths; they have `tokens`."""

    def __init__(self, examples: list[Item], rng: random.Random):
        self._examples = sorted(examples, key=lambda example: len(example.tokens))
        self._rng = rng

    def pick(self, count: int) -> list[Item]:
        begin = self._rng.randrange(max(1, len(self._examples) - 4 * count))
        window = self._examples[begin : begin + 4 * count]
        return self._rng.sample(window, min(count, len(window)))


def logits_at(prm, examples: list[Example], pad: int) -> Tensor:
    """[labels, V]: the logits at every labelled token, in order."""
    hidden = prm.model(pad_right([example.tokens for example in examples], pad), use_cache=False).last_hidden_state
    rows = [row for row, example in enumerate(examples) for _ in example.positions]
    return prm.lm_head(hidden[rows, [at for example in examples for at in example.positions]])


class Phase:
    """Updates on Monte-Carlo labels and on replaced results, any mixture of them."""

    def __init__(self, prm, data: list[Example], tokenizer, seed: int):
        self._prm = prm
        self._rng = random.Random(seed)
        self._ids = TokenIds.of(tokenizer)
        self._results = tokenizer.convert_tokens_to_ids(NUMBERS)
        self._data = Batches(data, self._rng)
        self._right = Batches([example for example in data if example.right], self._rng)

    def loss(self, labelled: int, wrong: int, share: float, recall_weight: float) -> Tensor:
        """Cross-entropy of the verdicts, and of the results that stood where others stand now."""
        examples = self._data.pick(labelled) if labelled else []
        originals: list[int] = []
        for example in self._right.pick(wrong):
            other, results = replaced(example, share, self._results, self._rng)
            examples.append(other)
            originals += results
        logits = logits_at(self._prm, examples, self._ids.pad)
        labels = torch.tensor([label for example in examples for label in example.labels])
        verdicts = logits[:, [self._ids.good, self._ids.bad]]
        verdict = F.cross_entropy(verdicts, torch.stack([labels, 1 - labels], dim=1))
        named = logits[len(logits) - len(originals) :, self._results]
        recall = F.cross_entropy(named, torch.tensor(originals) - self._results[0])
        return verdict + recall_weight * recall

    def run(self, name: str, steps: int, lr: float, report, **mixture) -> None:
        trainer = Trainer(self._prm, steps, lr, warmup=50)
        start, losses = time.perf_counter(), []
        for step in range(1, steps + 1):
            losses.append(trainer.step(self.loss(**mixture)))
            if step % 200 == 0 or step == steps:
                recent = sum(losses[-100:]) / len(losses[-100:])
                print(f"{name} {step} loss {recent:.4f} {report()} {time.perf_counter() - start:.0f} s", flush=True)


def auc(scores: list[float], flags: list[bool]) -> float:
    """The chance that a right one scores above a wrong one, ties counting half."""
    values, right = torch.tensor(scores), torch.tensor(flags)
    good, bad = values[right], values[~right]
    above = (good[:, None] > bad[None]).float() + 0.5 * (good[:, None] == bad[None]).float()
    return above.mean().item()


class HeldOutReport:
    """Measures a reward model on the policy's own roll-outs of held-out problems, never on made-up mistakes."""

    def __init__(self, labeller: Labeller, tokenizer, samples: int):
        self._ids = TokenIds.of(tokenizer)
        self._sequences, self._prompt_lengths, self._right = [], [], []
        problems = list(held_out("validation"))
        for problem, examples in zip(problems, labeller.on_policy(problems, samples), strict=True):
            prompt_length = len(tokenizer(problem.text)["input_ids"])
            for example in examples:
                solution = tokenizer.decode(example.tokens[prompt_length:], skip_special_tokens=True)
                self._sequences.append(example.tokens)
                self._prompt_lengths.append(prompt_length)
                self._right.append(right_so_far(problem, solution))

    def __call__(self, prm) -> str:
        verdicts = [self._ids.good, self._ids.bad]
        scores = step_scores(prm, self._sequences, self._prompt_lengths, self._ids.step_ends, verdicts)
        # A step is judged where everything before it is right; a solution by the product over its steps.
        steps, products = [], []
        for solution, right in zip(scores, self._right, strict=True):
            so_far = [True, *right]
            steps += [pair for pair, ok in zip(zip(solution, right, strict=False), so_far, strict=False) if ok]
            products += [(torch.tensor(solution).prod().item(), right[-1])] if solution else []
        step_auc, product_auc = (auc(*zip(*pairs, strict=True)) for pairs in (steps, products))
        return f"held-out AUC: steps {step_auc:.4f}, solutions {product_auc:.4f}"


def main() -> None:
    args = parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    policy, tokenizer = load(args.policy)
    measure = HeldOutReport(Labeller(policy, tokenizer, args.seed + 1), tokenizer, samples=8)
    # Roll-outs in bf16 are twice as fast and the labels are noisy anyway.
    labeller = Labeller(policy.to(torch.bfloat16), tokenizer, args.seed)
    data = collect(labeller, args.problems, args.samples, args.seed)
    prm = grown_from(policy.float(), TokenIds.of(tokenizer), args.extra_layers)
    print(f"{parameter_count(prm):,} parameters", flush=True)
    phase = Phase(prm, data, tokenizer, args.seed)
    half = args.batch // 2
    warm = {"labelled": 0, "wrong": args.batch, "share": 0.4, "recall_weight": 1.0}
    mixed = {"labelled": half, "wrong": half, "share": 0.3, "recall_weight": 0.5}
    phase.run("replaced results", args.warm_up, 2e-3, lambda: measure(prm), **warm)
    phase.run("roll-out labels", args.steps, 1e-3, lambda: measure(prm), **mixed)
    save(prm, tokenizer, args.out, {"scorer.json": SCORER})


if __name__ == "__main__":
    main()
