"""A worker as its parent sees it: a process with few cores that answers lines."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import time
from pathlib import Path
from threading import Timer
from typing import IO, Any

# Seconds to leave after the last request.
GOODBYE = 20.0
# Memory that is left to everything else on the machine.
SPARE_BYTES = 1 << 30


class WorkerError(Exception):
    """Why a worker gave no answer."""


def available_bytes() -> int:
    (line,) = (line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


class Worker:
    """``peers/NAME.py`` in the given Python, on the first ``threads`` cores, with the memory there is.

    What it prints goes to ``log``, an open file.
    """

    def __init__(self, python: str, name: str, threads: int, log: IO[str]) -> None:
        cores = sorted(os.sched_getaffinity(0))[:threads]
        if len(cores) < threads:
            raise ValueError(f"Worker: threads must be at most {len(cores)}, the number of cores, got {threads}")
        memory = available_bytes() - SPARE_BYTES

        def confine() -> None:
            # A group of its own, so that its children can be ended with it.
            os.setpgid(0, 0)
            os.sched_setaffinity(0, cores)
            resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))

        counts = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS", "NUMBA")}
        self.log = log
        try:
            self.process = subprocess.Popen(
                [python, "-m", f"peers.{name}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                text=True, cwd=Path(__file__).parent.parent, env=os.environ | counts, preexec_fn=confine,
            )  # fmt: skip
        except OSError as error:
            raise WorkerError(f"{python}: {error.strerror}") from error

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self.process.communicate(timeout=GOODBYE)
        except (subprocess.TimeoutExpired, BrokenPipeError):
            self.kill()

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def ask(self, request: dict[str, Any], limit: float) -> dict[str, Any]:
        """The answer to a request. Raises WorkerError when there is none within ``limit`` seconds, or an error."""
        assert self.process.stdin and self.process.stdout
        late, begin = Timer(limit, self.kill), time.monotonic()
        late.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        late.cancel()
        if not line:
            expired = time.monotonic() - begin >= limit
            raise WorkerError(f"over the limit of {limit:g} s" if expired else self.last_words())
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        return answer

    def last_words(self) -> str:
        """The last line that a process which ended by itself had to say, and the signal that ended it."""
        status = self.process.wait()
        self.log.seek(0)
        lines = self.log.read().strip().splitlines()
        ended = f"ended by {signal.Signals(-status).name}" if status < 0 else f"ended with {status}"
        return f"{ended}: {lines[-1]}" if lines else ended
