"""Particle filtering over steps (Puri et al. 2502.01618)."""

from __future__ import annotations

import numpy as np

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
        particles = yield from self.step(tree, [(tree.root, self.missing(tree))], [])
        round = 0
        while any(node.state is State.OPEN for node in particles):
            rng = np.random.default_rng([tree.root.key, round])
            drawn = rng.choice(len(particles), len(particles), p=weights([node.score for node in particles]))
            counts: dict[int, int] = {}
            for place in drawn.tolist():
                counts[particles[place].id] = counts.get(particles[place].id, 0) + 1
            particles = yield from self.step(
                tree, [(node, counts.get(node.id, 0)) for node in unique(particles) if not node.ended],
                [(node, counts.get(node.id, 0)) for node in unique(particles) if node.ended],
            )  # fmt: skip
            round += 1
        for node in unique(particles):
            node.copies = sum(other is node for other in particles)

    def step(self, tree: SearchTree, live: list[tuple[Node, int]], ended: list[tuple[Node, int]]) -> Play:
        """One step of every particle that was drawn. Returns the particles afterwards."""
        begin = len(tree.nodes)
        yield Decision(
            expand=[pair for pair in live if pair[1]],
            release=[node for node, count in live if not count],
            discard=[node for node, count in ended if not count],
        )
        return [node for node, count in ended for _ in range(count)] + tree.nodes[begin:]


def unique(particles: list[Node]) -> list[Node]:
    return list({node.id: node for node in particles}.values())


def weights(scores: list[float]) -> np.ndarray:
    """Soft-max of the logits of scores in [0, 1], which are taken no closer to either end than 1e-7."""
    clipped = np.clip(np.array(scores), 1e-7, 1 - 1e-7)
    odds = clipped / (1 - clipped)
    return odds / odds.sum()
