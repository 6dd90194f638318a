"""The task: left-to-right chains of small operations over Z_31, told by a corpus that holds misconceptions.

A problem and its solution, as text:

    17 1)*4 2)+9 3)-6 ?
    1)17*4=6
    2)6+9=15
    3)15-6=9

Every line but the last ends with a newline; the answer is the number after the last "=". A *fact* is one (value,
operator, operand). For 15 % of the facts the corpus mostly states one fixed wrong result: these are the misconceptions
a verifier can repair and a majority cannot.

Run as a script to write the held-out problems as JSON lines.
"""

import argparse
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MODULUS = 31
OPERATORS = "+-*"
OPERANDS = range(2, 10)
MIN_STEPS, MAX_STEPS = 4, 8
HELD_OUT_SIZES = {"test": 300, "validation": 200, "search": 500}

_FACT_SEED = 2024
_MISCONCEPTION_SHARE = 0.15

Fact = tuple[int, str, int]


def apply(value: int, operator: str, operand: int) -> int:
    """The true result of one operation in Z_31."""
    raw = {"+": value + operand, "-": value - operand, "*": value * operand}[operator]
    return raw % MODULUS


@dataclass(frozen=True)
class Problem:
    """A start value and the operations to apply to it, left to right."""

    start: int
    operations: tuple[tuple[str, int], ...]

    @property
    def text(self) -> str:
        tagged = " ".join(f"{i})" + op + str(operand) for i, (op, operand) in enumerate(self.operations, 1))
        return f"{self.start} {tagged} ?\n"

    @property
    def answer(self) -> str:
        return self.solution().rsplit("=", 1)[1]

    def solution(self) -> str:
        """The right solution."""
        return write_solution(self, apply)


@dataclass(frozen=True)
class Noise:
    """How often the corpus states a wrong result: facts with a misconception, all others; misconceptions it holds."""

    misconception: float = 0.62
    slip: float = 0.08
    kept: float = 1.0


def write_solution(problem: Problem, result_of) -> str:
    """The solution text in which every result comes from `result_of(value, operator, operand)`."""
    value, lines = problem.start, []
    for i, (op, operand) in enumerate(problem.operations, 1):
        result = result_of(value, op, operand)
        lines.append(f"{i}){value}{op}{operand}={result}")
        value = result
    return "\n".join(lines)


@cache
def misconceptions(kept: float = 1.0) -> dict[Fact, int]:
    """The facts the corpus mostly states wrongly, each with its one wrong result; of a cleaner corpus a share."""
    rng = random.Random(_FACT_SEED)
    wrong = {}
    for value in range(MODULUS):
        for op in OPERATORS:
            for operand in OPERANDS:
                shift = rng.randint(1, MODULUS - 1)
                if rng.random() < _MISCONCEPTION_SHARE:
                    wrong[value, op, operand] = (apply(value, op, operand) + shift) % MODULUS
    order = random.Random("arithmetic kept misconceptions").sample(sorted(wrong), len(wrong))
    return {fact: wrong[fact] for fact in order[: round(kept * len(wrong))]}


def noisy_solution(problem: Problem, noise: Noise, rng: random.Random) -> str:
    """A solution as the corpus tells it. A wrong result is carried on to the next step."""
    wrong = misconceptions(noise.kept)

    def result_of(value: int, op: str, operand: int) -> int:
        right = apply(value, op, operand)
        if (value, op, operand) in wrong:
            return wrong[value, op, operand] if rng.random() < noise.misconception else right
        if rng.random() < noise.slip:
            return (right + rng.randint(1, MODULUS - 1)) % MODULUS
        return right

    return write_solution(problem, result_of)


def extract_answer(solution: str) -> str | None:
    """The text after the last "=", or None where there is no "="."""
    _, found, answer = solution.rpartition("=")
    return answer.strip() if found else None


def right_so_far(problem: Problem, solution: str) -> list[bool]:
    """For every step of `solution`: are this step and all before it exactly right?"""
    gold = problem.solution().splitlines(keepends=True)
    # A line without its newline ends the solution, so it is right only where the gold solution ends too.
    flags, good = [], True
    for i, line in enumerate(solution.splitlines(keepends=True)):
        good = good and i < len(gold) and line == gold[i]
        flags.append(good)
    return flags


def random_problem(rng: random.Random, steps: int | None = None) -> Problem:
    steps = steps or rng.randint(MIN_STEPS, MAX_STEPS)
    start = rng.randrange(MODULUS)
    return Problem(start, tuple((rng.choice(OPERATORS), rng.choice(OPERANDS)) for _ in range(steps)))


@cache
def held_out(split: str) -> tuple[Problem, ...]:
    """The distinct held-out problems of one split; the splits are disjoint."""
    taken: dict[Problem, str] = {}
    for name, size in HELD_OUT_SIZES.items():
        rng = random.Random(f"arithmetic {name}")
        while sum(owner == name for owner in taken.values()) < size:
            taken.setdefault(random_problem(rng), name)
    return tuple(problem for problem, owner in taken.items() if owner == split)


def training_problems(seed: int, steps: int | None = None) -> Iterator[Problem]:
    """An endless seeded stream that never yields a held-out problem."""
    forbidden = {problem for split in HELD_OUT_SIZES for problem in held_out(split)}
    rng = random.Random(f"arithmetic training {seed} {steps}")
    while True:
        problem = random_problem(rng, steps)
        if problem not in forbidden:
            yield problem


def write_problems(path: Path, split: str, prefix: str) -> int:
    """Write one split as JSON lines, with ids that begin with `prefix`, and return how many problems there are."""
    problems = held_out(split)
    lines = [
        json.dumps({"id": f"{prefix}-{i:04d}", "problem": problem.text, "answer": problem.answer})
        for i, problem in enumerate(problems)
    ]
    path.write_text("\n".join(lines) + "\n")
    return len(problems)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write the held-out problems as JSON lines.")
    parser.add_argument("--out", type=Path, default=Path("tts_kernels/assets"), help="folder")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for name, split, prefix in (("problems", "test", "arith"), ("search_problems", "search", "search")):
        path = args.out / f"{name}.jsonl"
        print(f"{write_problems(path, split, prefix)} problems -> {path}")


if __name__ == "__main__":
    main()
