"""What one problem's search has spent: every strategy is charged the same way."""

from __future__ import annotations

import time
from collections import Counter

from tts_kernels.hf import TreeModel, attended
from tts_kernels.scorers import Scorer
from tts_kernels.search import SearchStats
from tts_kernels.strategies import Budget
from tts_kernels.tree import Node, SearchTree


class Meter:
    """Counts into ``stats``, see there."""

    def __init__(self, policy: TreeModel, scorer: Scorer, stats: SearchStats) -> None:
        self.policy = policy
        self.scorer = scorer
        self.stats = stats
        self.begin = time.perf_counter()
        self._steps_at: Counter[int] = Counter()
        # Drawn tokens that the scorer has yet to read, for what a limit must leave room for.
        self._unread = 0

    def fed(self, tokens: int, begin: int) -> None:
        """The policy has read ``tokens`` tokens of a path from position ``begin`` on."""
        self.read(tokens, attended(tokens, begin))

    def read(self, tokens: int, attended: int) -> None:
        """The policy has read ``tokens`` tokens, which together see ``attended``."""
        self.stats.fed_tokens += tokens
        self.stats.policy_flops += self.policy.cost(tokens, attended)

    def drew(self, tokens: int, rollouts: int = 0) -> None:
        """Nodes have got ``tokens`` tokens, of which ``rollouts`` are those of rollouts."""
        self.stats.tokens += tokens
        self.stats.rollout_tokens += rollouts
        self._unread += tokens

    def step(self, node: Node) -> None:
        """A step of the node is complete."""
        at = node.first_step + len(node.step_ends)
        self._steps_at[at] += 1
        self.stats.generations = max(self.stats.generations, self._steps_at[at])

    def scored(self, tree: SearchTree) -> None:
        """The scorer has read all that was drawn."""
        self._unread = 0
        read = self.scorer.spent(tree)
        self.stats.scorer_tokens, self.stats.scorer_flops = read.tokens, read.flops
        self.stats.kv_bytes = self.policy.pool.layout.token_bytes * self.stats.fed_tokens + read.kv_bytes

    def allows(self, limit: Budget | None, tokens: int, attended: int) -> bool:
        """Whether ``tokens`` more, which together see ``attended``, and their scoring stay within the limit."""
        if limit is None or limit.unit == "generations":
            return True
        if limit.unit == "tokens":
            return self.stats.tokens + tokens <= limit.amount
        call = self.policy.cost(tokens, attended)
        per_token = self.stats.scorer_flops / max(1, self.stats.scorer_tokens)
        scoring = per_token * (self._unread + tokens)
        return self.stats.policy_flops + self.stats.scorer_flops + call + scoring <= limit.amount
