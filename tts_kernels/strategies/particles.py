"""Particle filtering over steps (Puri et al. 2502.01618)."""

from __future__ import annotations

from collections import Counter

import numpy as np

from tts_kernels.selection import odds
from tts_kernels.strategies.base import Decision, Play, Strategy
from tts_kernels.tree import Node, SearchTree, State


class ParticleFilter(Strategy):
    """``budget`` particles take a step each; then as many are drawn with replacement, with the soft-max of the logits
    of their scores for weights, and so on until all that are drawn are complete.

    A complete particle keeps its weight and can be drawn again; how often it is in the last draw is its weight in a
    vote. One that is not drawn is no candidate any more.
    """

    name = "particles"
    reads_scores = True

    def play(self, tree: SearchTree) -> Play:
        if self.missing(tree) < 1:
            return
        particles = yield from self.step(tree, {tree.root: self.missing(tree)})
        round = 0
        while any(node.state is State.OPEN for node in particles):
            rng = np.random.default_rng([tree.root.key, round])
            drawn = rng.choice(len(particles), len(particles), p=weights([node.score for node in particles]))
            counts: Counter[Node] = Counter(particles[place] for place in drawn.tolist())
            particles = yield from self.step(tree, {node: counts[node] for node in particles})
            round += 1
        votes: Counter[Node] = Counter(particles)
        for particle, copies in votes.items():
            particle.copies = copies

    def step(self, tree: SearchTree, counts: dict[Node, int]) -> Play:
        """One step of every particle, which was drawn so often. Returns the particles afterwards."""
        begin = len(tree.nodes)
        yield Decision(
            expand=[(node, count) for node, count in counts.items() if count and not node.ended],
            release=[node for node, count in counts.items() if not count and not node.ended],
            discard=[node for node, count in counts.items() if not count and node.ended],
        )
        return [node for node, count in counts.items() if node.ended for _ in range(count)] + tree.nodes[begin:]


def weights(scores: list[float]) -> np.ndarray:
    """Soft-max of the logits of scores in [0, 1], which are taken no closer to either end than ``odds`` does."""
    shares = odds(np.array(scores))
    return shares / shares.sum()
