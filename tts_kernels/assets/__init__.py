"""The small models that make the demo run anywhere, trained by ``examples/arithmetic``."""

from pathlib import Path

_HERE = Path(__file__).parent

POLICY = _HERE / "policy"
PRM = _HERE / "prm"
PROBLEMS = _HERE / "problems.jsonl"
# What ends a step in the solutions that these models write.
SEPARATOR = "\n"
