"""Reading problem files: JSON Lines, one problem a line."""

from __future__ import annotations

import json
from pathlib import Path

from tts_kernels.search import Problem

_TEXT_KEYS = ("problem", "question", "prompt")
_ID_KEYS = ("id", "unique_id")


def read_problems(path: Path, limit: int | None = None) -> list[Problem]:
    """Problems of a JSONL file: the text under ``problem``, ``question`` or ``prompt``; ``answer`` and ``id`` optional.

    Of an answer with a worked solution in GSM8K's form, what follows ``####`` counts. Without an id, the line number is
    the id. Raises ValueError naming file and line.
    """
    problems: list[Problem] = []
    seen: dict[str, int] = {}
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        if limit is not None and len(problems) == limit:
            break
        if not line.strip():
            continue
        problem = _parse(line, f"{path}, line {number}", str(number))
        if problem.id in seen:
            raise ValueError(f"{path}, line {number}: id {problem.id!r} stands on line {seen[problem.id]} already")
        seen[problem.id] = number
        problems.append(problem)
    if not problems:
        raise ValueError(f"{path}: holds no problem")
    return problems


def _parse(line: str, where: str, default_id: str) -> Problem:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: is not JSON: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"{where}: must be a JSON object, got {type(record).__name__}")
    text = next((record[key] for key in _TEXT_KEYS if key in record), None)
    if not isinstance(text, str) or not text:
        raise ValueError(f"{where}: must have the problem's text under {' or '.join(_TEXT_KEYS)}, got {text!r}")
    answer = record.get("answer")
    if answer is not None:
        answer = str(answer).rsplit("####", 1)[-1].strip()
    identifier = next((record[key] for key in _ID_KEYS if key in record), default_id)
    return Problem(str(identifier), text, answer)
