"""Diverse verifier tree search: several beams of one node each that never compete (Beeching et al. 2024)."""

from __future__ import annotations

from tts_kernels.strategies.base import Allocation, Decision, Play
from tts_kernels.strategies.beam import Beam
from tts_kernels.tree import Node, SearchTree, State


class DVTS(Beam):
    """``budget / width`` trees. In each the best node is kept and gets ``width`` children.

    A tree is a beam search of budget ``width`` that keeps one node, so its early finishers stay candidates and take
    their share along. (The released code goes on with ``width`` children and drops finishers that are not the best of
    their siblings.)
    """

    name = "dvts"

    def play(self, tree: SearchTree) -> Play:
        first, budget = tree.root.num_children, self.missing(tree)
        sizes = [min(self.width, budget - begin) for begin in range(0, budget, self.width)]

        def members(*states: State) -> list[list[Node]]:
            trees: list[list[Node]] = [[] for _ in sizes]
            for node in tree.in_state(*states):
                if node.path and node.path[0] >= first:
                    trees[(node.path[0] - first) // self.width].append(node)
            return trees

        yield Decision(expand=[(tree.root, budget)])
        while any(opened := members(State.OPEN)):
            ended = members(State.FINISHED, State.TRUNCATED)
            left = [size - len(done) for size, done in zip(sizes, ended, strict=True)]
            yield Decision(share=[Allocation(nodes, 1, most) for nodes, most in zip(opened, left, strict=True)])
