"""Measure the shipped models on the held-out problems with plain transformers, as a baseline for the package."""

import argparse
import json
import math
import time
from collections import defaultdict
from dataclasses import dataclass, field
from itertools import cycle, islice
from operator import methodcaller
from pathlib import Path

import torch
from models import SEARCH_TEMPERATURE, load
from rollouts import Sampling, sample, step_scores
from task import extract_answer
from vocabulary import TokenIds

# The reward model judges single steps, so a path is as good as all of them together.
BEAM_AGGREGATE = "prod"
AGGREGATES = {"last": lambda scores: scores[-1], "min": min, "prod": math.prod}


@dataclass
class Question:
    """One held-out problem as tokens, and its answer."""

    prompt: list[int]
    answer: str


@dataclass
class Candidate:
    """A (partial) solution of one question: all its tokens, and the score of each of its steps."""

    tokens: list[int]
    answer: str | None = None
    scores: list[float] = field(default_factory=list)

    def score(self, aggregate: str) -> float:
        return AGGREGATES[aggregate](self.scores) if self.scores else 0.0


class Models:
    """The policy, the reward model and their tokenizer, with the two operations a search needs."""

    def __init__(self, assets: Path, policy: Path | None, seed: int):
        self.policy, self.tokenizer = load(policy or assets / "policy")
        self.prm, _ = load(assets / "prm")
        self.ids = TokenIds.of(self.tokenizer)
        self._generator = torch.Generator().manual_seed(seed)
        self.new_tokens = 0

    def extend(
        self, paths: list[Candidate], question_of: list[Question], count: int, temperature: float, step: bool
    ) -> list[Candidate]:
        """`count` continuations of each path, in order: by one step or to the end."""
        ids = self.ids
        stops = ids.step_ends if step else (ids.eos,)
        how = Sampling(temperature, stops, 16 if step else 64, ids.pad)
        rows = sample(self.policy, [path.tokens for path in paths], count, how, self._generator)
        children = []
        for path, question, tails in zip(paths, question_of, rows, strict=True):
            for tail in tails:
                self.new_tokens += len(tail)
                children.append(self._child(path, question, tail))
        return children

    def _child(self, path: Candidate, question: Question, tail: list[int]) -> Candidate:
        tokens = path.tokens + tail
        if tail[-1] != self.ids.eos:
            return Candidate(tokens)
        text = self.tokenizer.decode(tokens[len(question.prompt) :], skip_special_tokens=True)
        return Candidate(tokens, extract_answer(text))

    def finished(self, path: Candidate) -> bool:
        return path.tokens[-1] == self.ids.eos

    def score(self, paths: list[Candidate], question_of: list[Question]) -> None:
        """Fill in the step scores. Equal paths are scored once."""
        lengths = {tuple(path.tokens): len(question.prompt) for path, question in zip(paths, question_of, strict=True)}
        verdicts = [self.ids.good, self.ids.bad]
        rows = step_scores(
            self.prm, [list(key) for key in lengths], list(lengths.values()), self.ids.step_ends, verdicts
        )
        scores = dict(zip(lengths, rows, strict=True))
        for path in paths:
            path.scores = scores[tuple(path.tokens)]


def vote(paths: list[Candidate], weight) -> str | None:
    """The answer with the largest total weight; the first seen wins a tie. Paths without an answer do not vote."""
    totals: dict[str, float] = defaultdict(float)
    for path in paths:
        if path.answer is not None:
            totals[path.answer] += weight(path)
    return max(totals, key=totals.get) if totals else None


def beam_search(models: Models, questions: list[Question], budget: int, width: int) -> list[list[Candidate]]:
    """Finished paths of every question.

    A path that ends leaves the beam and keeps its share of the budget. Of the unfinished, the best ceil(rest / width)
    by the product of their step scores are kept and get `rest` children in turn.
    """
    live = [[Candidate(list(question.prompt))] for question in questions]
    done: list[list[Candidate]] = [[] for _ in questions]
    for _ in range(12):
        parents, owners = [], []
        for i, beam in enumerate(live):
            rest = budget - len(done[i])
            if beam and rest > 0:
                parents += islice(cycle(beam), rest)
                owners += [i] * rest
        if not parents:
            break
        question_of = [questions[i] for i in owners]
        children = models.extend(parents, question_of, 1, SEARCH_TEMPERATURE, step=True)
        models.score(children, question_of)
        grown = defaultdict(list)
        for i, child in zip(owners, children, strict=True):
            (done[i] if models.finished(child) else grown[i]).append(child)
        for paths in grown.values():
            paths.sort(key=methodcaller("score", BEAM_AGGREGATE), reverse=True)
        live = [grown[i][: math.ceil((budget - len(done[i])) / width)] for i in range(len(questions))]
    return done


def share(flags) -> float:
    flags = list(flags)
    return sum(flags) / len(flags)


def sampling_rows(models: Models, questions: list[Question], count: int) -> list[tuple[str, float, float]]:
    """Greedy and everything that chooses among `count` independent samples, as (name, accuracy, tokens per problem)."""
    n, roots = len(questions), [Candidate(list(question.prompt)) for question in questions]
    greedy = models.extend(roots, questions, 1, 0.0, step=False)
    right = [path.answer == question.answer for path, question in zip(greedy, questions, strict=True)]
    rows = [("greedy", share(right), models.new_tokens / n)]
    models.new_tokens = 0
    paths = models.extend(roots, questions, count, SEARCH_TEMPERATURE, step=False)
    cost = models.new_tokens / n
    models.score(paths, [question for question in questions for _ in range(count)])
    groups = [paths[i * count : (i + 1) * count] for i in range(n)]
    pairs = list(zip(groups, questions, strict=True))
    right = [[path.answer == question.answer for path in group] for group, question in pairs]
    rows.append((f"pass@1, T={SEARCH_TEMPERATURE}", share(flag for flags in right for flag in flags), cost / count))
    rows.append((f"pass@{count}", share(map(any, right)), cost))
    rows.append((f"majority@{count}", share(vote(group, lambda _: 1.0) == q.answer for group, q in pairs), cost))
    for name in AGGREGATES:
        score = methodcaller("score", name)
        best = share(max(group, key=score).answer == question.answer for group, question in pairs)
        weighted = share(vote(group, score) == question.answer for group, question in pairs)
        rows += [(f"best-of-{count}, {name}", best, cost), (f"weighted@{count}, {name}", weighted, cost)]
    return rows


def beam_row(models: Models, questions: list[Question], budget: int, width: int) -> tuple[str, float, float]:
    models.new_tokens = 0
    found = beam_search(models, questions, budget, width)
    answers = [vote(paths, methodcaller("score", BEAM_AGGREGATE)) for paths in found]
    accuracy = share(answer == question.answer for answer, question in zip(answers, questions, strict=True))
    return f"beam {budget}, width {width}, weighted, {BEAM_AGGREGATE}", accuracy, models.new_tokens / len(questions)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--assets", type=Path, default=Path("tts_kernels/assets"))
    parser.add_argument("--policy", type=Path, help="default: policy of the assets")
    parser.add_argument("--problems", type=Path, help="JSON lines; default: problems.jsonl of the assets")
    parser.add_argument("--limit", type=int, default=300)
    parser.add_argument("--budget", type=int, default=16)
    parser.add_argument("--width", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    models = Models(args.assets, args.policy, args.seed)
    lines = (args.problems or args.assets / "problems.jsonl").read_text().splitlines()[: args.limit]
    records = [json.loads(line) for line in lines]
    questions = [Question(models.tokenizer(record["problem"])["input_ids"], record["answer"]) for record in records]
    start = time.perf_counter()
    rows = sampling_rows(models, questions, args.budget)
    rows.append(beam_row(models, questions, args.budget, args.width))
    print(f"| {len(questions)} held-out problems | accuracy | policy tokens per problem |\n|---|---|---|")
    for name, accuracy, tokens in rows:
        print(f"| {name} | {accuracy:.3f} | {tokens:.0f} |")
    print(f"{time.perf_counter() - start:.0f} s")


if __name__ == "__main__":
    main()
