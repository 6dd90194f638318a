"""The policy's own confidence, for models without a reward model."""

from __future__ import annotations

import math

from tts_kernels.scorers.base import HostScorer
from tts_kernels.tree import Node, SearchTree


class LogProbScorer(HostScorer):
    """Score of a node: the geometric mean of the probabilities of its own tokens, in [0, 1]."""

    def judge(self, tree: SearchTree, node: Node) -> float:
        return math.exp(node.log_prob / len(node.tokens))
