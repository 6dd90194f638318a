"""How ``bench_decode.py`` and its workers talk: a JSON object per line, a request in and an answer out.

The first line says what to load: model, dtype, threads, mode, branches, prefix, new, and prompts to ``check``. The
answer has the system's version and the likeliest next token of each of these prompts. Every further line has a prompt,
``branches`` and ``new``; the answer has seconds, tokens and memory. Whatever fails is answered with ``error``. This
module runs in the Python of every system and needs the standard library alone. Linux only.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

Request = dict[str, Any]


class System(Protocol):
    """A loaded model. ``loaded_mb``: resident memory with the weights and without KV."""

    version: str
    loaded_mb: float

    def next_tokens(self, prompts: list[list[int]]) -> list[int]:
        """The likeliest token behind each prompt."""

    def sample(self, prompt: list[int], branches: int, new: int) -> int:
        """Continue the prompt ``branches`` times by ``new`` tokens at temperature 1. Returns how many were drawn."""


def resident_mb(field: str = "VmRSS") -> float:
    """VmRSS, or VmHWM, the highest since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kib) * 1024 / 1e6


def measure(system: System, request: Request) -> Request:
    """One job, from the prompt's tokens to the last token drawn."""
    # Forgets the highest resident memory so far.
    Path("/proc/self/clear_refs").write_text("5")
    begin, cpu_begin = time.perf_counter(), time.process_time()
    tokens = system.sample(request["prompt"], request["branches"], request["new"])
    seconds, cpu_seconds = time.perf_counter() - begin, time.process_time() - cpu_begin
    peak = resident_mb("VmHWM")
    memory = {"peak_mb": peak, "beyond_weights_mb": peak - system.loaded_mb}
    return {"seconds": seconds, "cpu_seconds": cpu_seconds, "tokens": tokens} | memory


def serve(load: Callable[[Request], System]) -> None:
    """Answer requests until there are none."""
    # Libraries print what they like on the standard output: theirs goes where errors go.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    system: System | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if system is None:
                system = load(request)
                answer = {"version": system.version, "next": system.next_tokens(request["check"])}
            else:
                answer = measure(system, request)
        # The process is to live on and say what went wrong, whatever it was.
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}
        print(json.dumps(answer), file=answers, flush=True)
