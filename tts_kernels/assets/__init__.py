"""The small models that make the demo run anywhere, trained by ``examples/arithmetic``."""

from pathlib import Path

_HERE = Path(__file__).parent

POLICY = _HERE / "policy"
PRM = _HERE / "prm"
# The policy, taught to go on behind the end of its last attempts with a better one.
REVISER = _HERE / "reviser"
PROBLEMS = _HERE / "problems.jsonl"
# More held-out problems, none of them among the ones above.
SEARCH_PROBLEMS = _HERE / "search_problems.jsonl"
# Which search to choose for them, by budget and difficulty: made by ``benchmarks/analyse_search.py``.
SEARCH_POLICY = _HERE / "search_policy.json"
# What ends a step in the solutions that these models write.
SEPARATOR = "\n"
