"""Reading the final answer out of a solution, and telling whether it is right."""

from __future__ import annotations

import re

from math_verify import parse, verify

_NUMBER = re.compile(r"[-+]?(?:\d[\d,]*\.?\d*|\.\d+)")
_STATED = re.compile(r"(?:answer is:?|answer:|####)\s*(.+)", re.IGNORECASE)


def extract_answer(text: str) -> str | None:
    r"""The canonical answer of a solution, or None.

    The last ``\boxed{...}``; else the sentence behind the last "answer is", "answer:" or "####"; else what follows the
    last "="; else the last number. Numbers lose thousands separators and trailing zeros.
    """
    boxed = last_boxed(text)
    if boxed is not None:
        return canonical(boxed)
    stated = _STATED.findall(text)
    if stated:
        return canonical(stated[-1].split(". ")[0].rstrip(" ."))
    if "=" in text:
        tail = text.rsplit("=", 1)[1].strip()
        if tail:
            return canonical(tail.splitlines()[0])
    numbers = _NUMBER.findall(text)
    return canonical(numbers[-1]) if numbers else None


def canonical(answer: str) -> str:
    """One spelling per plain number; other answers are only stripped."""
    answer = answer.strip().strip("$").strip()
    if _NUMBER.fullmatch(answer):
        plain = answer.replace(",", "").removeprefix("+")
        return plain.rstrip("0").rstrip(".") if "." in plain else plain.lstrip("0") or "0"
    return answer


def same_answer(got: str | None, gold: str) -> bool:
    """Whether two answers are equal as written or, failing that, as mathematics (math-verify)."""
    if got is None:
        return False
    if canonical(got) == canonical(gold):
        return True
    return bool(verify(parse(f"${gold}$"), parse(f"${got}$")))


def last_boxed(text: str) -> str | None:
    r"""What the last ``\boxed{...}`` holds; None without one or when its brace is never closed."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    depth, begin = 0, start + len("\\boxed{")
    for index in range(begin - 1, len(text)):
        depth += {"{": 1, "}": -1}.get(text[index], 0)
        if depth == 0:
            return text[begin:index]
    return None
