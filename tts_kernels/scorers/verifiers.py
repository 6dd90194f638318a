"""Verifiable rewards (Tulu 3, Lambert et al. 2411.15124): scores that a rule gives, without a model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from functools import cache
from typing import Any

from tts_kernels.answers import canonical, last_boxed
from tts_kernels.scorers.instructions import follows

Verifier = Callable[[str, Any], float]
"""(prediction, label) -> score in [0, 1]. Raises ValueError or TypeError for a label that it cannot use."""

_ANSWER_TAG = re.compile(r"<answer>((?:(?!<answer>).)*?)</answer>", re.DOTALL)
_DIGIT_COMMA = re.compile(r"(?<=[0-9]),(?=[0-9])")
_NUMBER = re.compile(r"[-+]?(?:[0-9]*\.[0-9]+|[0-9]+)")
_MINERVA = re.compile(r"final answer is:?((?:(?!final answer is).)*?)I hope", re.DOTALL | re.IGNORECASE)
_LAST_DOLLARS = re.compile(r".*\$([^$]+)\$", re.DOTALL)

# Characters of an answer. Parsing takes long for longer ones; of prose, the end is what counts.
_LONGEST = 1000

# In this order, each on the result of the one before.
_NORMAL_FORM = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\\(?:left|right|displaystyle)(?![a-zA-Z])", ""),
        (r"(?<!\\)\\[!,;: ]|~|\\q?quad", ""),
        (r"\^\s*(?:\{\s*\\circ\s*\}|\\circ)|\\?[%$]", ""),
        (r"(?<=[0-9}])\s*\\(?:text|mbox)\{[^{}]*\}(?:\^\{?[0-9]\}?)?\s*$", ""),
        (r"\\(?:text|textbf|mbox|mathrm)\{([^{}]*)\}", r"\1"),
        (r"\s+", ""),
        (r"\\[dt]frac", r"\\frac"),
        (r"\\frac([0-9])([0-9])", r"\\frac{\1}{\2}"),
        (r"\\sqrt([0-9a-z])", r"\\sqrt{\1}"),
        (r"^([-+]?)([0-9]+)/([0-9]+)$", r"\1\\frac{\2}{\3}"),
        (r"^[a-zA-Z]{1,2}=", ""),
        (r"\.$", ""),
        (r"(?<![0-9])\.(?=[0-9])", "0."),
    )
]

# SIGPROF ends a process in the midst of anything, and CPU time does not depend on what else the machine does.
_JUDGE = """
import json, os, signal, sys
from tts_kernels.answers import same_answer
replies, sys.stdout = sys.stdout, open(os.devnull, "w")
sys.stderr = sys.stdout
signal.signal(signal.SIGPROF, signal.SIG_DFL)
print("ready", file=replies, flush=True)
for line in sys.stdin:
    signal.setitimer(signal.ITIMER_PROF, float(sys.argv[1]))
    try:
        same = same_answer(*json.loads(line))
    except Exception:
        same = False
    signal.setitimer(signal.ITIMER_PROF, 0)
    print("same" if same else "different", file=replies, flush=True)
"""


class MathJudge:
    """``same_answer`` in a process of its own, for texts that nobody has vetted.

    math-verify can take for ever, and its own time limits work in the main thread only. Here a pair of answers that
    takes more than ``cpu_seconds`` counts as different, in whichever thread. The process starts with the first pair,
    again after one that it did not survive, and ends with ``close`` or its parent.
    """

    def __init__(self, cpu_seconds: float = 5.0) -> None:
        if not cpu_seconds > 0:
            raise ValueError(f"MathJudge: cpu_seconds must be more than 0, got {cpu_seconds}")
        self.cpu_seconds = cpu_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def same(self, got: str, gold: str) -> bool:
        with self._lock:
            process = self._running()
            reply = ""
            try:
                reply = _ask(process, json.dumps([got, gold]))
            except OSError:
                pass
            finally:
                # Also when interrupted: a reply that comes later would be taken for that of another pair.
                if not reply:
                    self._stop()
            return reply == "same"

    def close(self) -> None:
        with self._lock:
            self._stop()

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._stop()
            paths = os.pathsep.join(path or os.getcwd() for path in sys.path)
            self._process = subprocess.Popen(
                [sys.executable, "-c", _JUDGE, str(self.cpu_seconds)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": paths},
            )
            if _ask(self._process) != "ready":
                self._stop()
                raise RuntimeError("MathJudge: its process did not start, see stderr for why")
        return self._process

    def _stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _ask(process: subprocess.Popen[str], line: str | None = None) -> str:
    assert process.stdin is not None and process.stdout is not None
    if line is not None:
        process.stdin.write(line + "\n")
        process.stdin.flush()
    return process.stdout.readline().strip()


@cache
def _judge(process_id: int) -> MathJudge:
    """One for each process: after a fork, two would read from one pipe."""
    return MathJudge()


def strip_thinking(text: str) -> str:
    """What stands behind the last ``</think>`` and, there, inside the last ``<answer>...</answer>`` if there is one."""
    if not isinstance(text, str):
        raise TypeError(f"strip_thinking: text must be a str, got {type(text).__name__}")
    text = text.rpartition("</think>")[2]
    answers = _ANSWER_TAG.findall(text)
    return (answers[-1] if answers else text).strip()


def gsm8k(prediction: str, label: Any) -> float:
    """1.0 if the last number of the prediction is the label, as written; commas in numbers do not count.

    label: a str or number. Of a worked solution, what stands behind its last ``####``.
    """
    gold = _DIGIT_COMMA.sub("", _label_text("gsm8k", label).rpartition("####")[2].strip())
    text = _DIGIT_COMMA.sub("", strip_thinking(prediction))
    numbers = _NUMBER.findall(text)
    return float((numbers[-1] if numbers else text).lower() == gold.lower())


def math(prediction: str, label: Any) -> float:
    """1.0 if an answer of the prediction equals the label, as normalised text or as mathematics.

    label: a str or number. Of a worked solution, what its last ``\\boxed{...}`` holds.
    """
    text = _label_text("math", label)
    gold = last_boxed(text) or text
    return float(any(_same(answer, gold) for answer in _math_answers(strip_thinking(prediction))))


def _math_answers(text: str) -> list[str]:
    """The last box and what Minerva's closing sentence says; else the last formula; else the end of the text.

    Those that are empty or too long are left out.
    """
    stated = _MINERVA.findall(text)[-1:]
    boxed = last_boxed(text)
    answers = stated if boxed is None else [boxed, *stated]
    if not answers:
        formula = _LAST_DOLLARS.match(text.replace("\\$", ""))
        answers = [formula[1] if formula else text[-_LONGEST:]]
    # math-verify reads no formula that ends with a full stop.
    answers = [answer.strip().removesuffix(".") for answer in answers]
    return [answer for answer in answers if 0 < len(answer) <= _LONGEST]


def _same(got: str, gold: str) -> bool:
    return _normal_form(got) == _normal_form(gold) or _judge(os.getpid()).same(got, gold)


def _normal_form(answer: str) -> str:
    for pattern, replacement in _NORMAL_FORM:
        answer = pattern.sub(replacement, answer)
    return canonical(answer)


def _label_text(name: str, label: Any) -> str:
    if not isinstance(label, str | int | float) or isinstance(label, bool):
        raise TypeError(f"{name}: label must be a str or number, got {type(label).__name__}")
    if not str(label).strip():
        raise ValueError(f"{name}: label must not be empty, got {label!r}")
    # JSON and data frames turn 18 into 18.0, which nobody writes.
    whole = isinstance(label, float) and label.is_integer()
    return str(int(label) if whole else label).strip()


def ifeval(prediction: str, label: Any) -> float:
    """The fraction of the label's constraints that the prediction follows.

    label: a list of ``{"id": ..., **kwargs}``, or IFEval's ``{"instruction_id_list": [...], "kwargs": [...]}``.
    """
    constraints = _constraints(label)
    text = strip_thinking(prediction)
    return sum(follows(text, instruction_id, **kwargs) for instruction_id, kwargs in constraints) / len(constraints)


def _constraints(label: Any) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(label, dict):
        if not label.keys() >= {"instruction_id_list", "kwargs"}:
            raise ValueError(f"ifeval: label must have instruction_id_list and kwargs, got {sorted(label)}")
        ids, kwargs = list(label["instruction_id_list"]), list(label["kwargs"])
        if len(ids) != len(kwargs):
            raise ValueError(f"ifeval: label must have kwargs for each of {len(ids)} ids, got {len(kwargs)}")
        label = [{**(given or {}), "id": name} for name, given in zip(ids, kwargs, strict=True)]
    if not isinstance(label, list | tuple) or not all(isinstance(item, dict) for item in label):
        raise TypeError(f"ifeval: label must be a list of dicts, got {label!r}")
    if not label or not all("id" in item for item in label):
        raise ValueError(f"ifeval: label must hold constraints with an id each, got {label!r}")
    return [(item["id"], {name: item[name] for name in item if name != "id"}) for item in label]


VERIFIERS: dict[str, Verifier] = {"gsm8k": gsm8k, "math": math, "ifeval": ifeval}
