"""The policy's own confidence, for models without a reward model."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext

from tts_kernels.tree import Node, SearchTree


class LogProbScorer:
    """Score of a node: the geometric mean of the probabilities of its own tokens, in [0, 1]."""

    context_length = 2**31 - 1

    def attached(self) -> AbstractContextManager[None]:
        return nullcontext()

    def add(self, trees: list[SearchTree]) -> None:
        pass

    def score(self, batch: list[tuple[SearchTree, Node]]) -> None:
        for _, node in batch:
            node.score = math.exp(node.log_prob / len(node.tokens))
            node.step_scores = [node.score] * len(node.step_ends)
            node.num_steps += len(node.step_ends)

    def release(self, tree: SearchTree, nodes: list[Node]) -> None:
        pass

    def drop(self, tree: SearchTree) -> None:
        pass

    def counters(self) -> dict[str, int]:
        return {}
