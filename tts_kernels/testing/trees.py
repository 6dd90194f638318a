"""Tree shapes to plan and count for: those of the literature, and random ones."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np

from tts_kernels import _ext
from tts_kernels.plan import Plan


@dataclass(frozen=True)
class TreeShape:
    """Nodes in an order in which parents come first: parents[i] (-1: a root) and tokens[i]; leaves have a row each."""

    name: str
    parents: tuple[int, ...]
    tokens: tuple[int, ...]

    def grow(self, page_size: int = 8) -> tuple[Any, np.ndarray]:
        """A forest with these nodes, and its leaves in depth-first order.

        A child whose parent does not end with a full page holds a copy of the last one.
        """
        page_sums = sum(-(-count // page_size) + 2 for count in self.tokens)
        forest = _ext.host().Forest(2 * page_sums + len(self.parents), page_size)
        children: list[list[int]] = [[] for _ in self.parents]
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                children[parent].append(node)
        level = [node for node, parent in enumerate(self.parents) if parent < 0]
        ids = {node: int(i) for node, i in zip(level, forest.add_roots(len(level)), strict=True)}
        while level:
            forest.append([ids[node] for node in level], [self.tokens[node] for node in level])
            inner = [node for node in level if children[node]]
            new, _, _ = forest.fork([ids[node] for node in inner], [len(children[node]) for node in inner], False)
            level = [child for node in inner for child in children[node]]
            ids |= dict(zip(level, new.tolist(), strict=True))
        order, stack = [], [node for node in reversed(range(len(self.parents))) if self.parents[node] < 0]
        while stack:
            node = stack.pop()
            stack.extend(reversed(children[node]))
            if not children[node]:
                order.append(ids[node])
        return forest, np.array(order, np.int32)


def balanced(counts: tuple[int, ...], tokens: tuple[int, ...], name: str = "") -> TreeShape:
    """counts[l] nodes of tokens[l] tokens on level l, spread evenly over the nodes of the level above."""
    parents, sizes, above = [-1] * counts[0], [tokens[0]] * counts[0], range(counts[0])
    for level, (count, size) in enumerate(zip(counts[1:], tokens[1:], strict=True), 1):
        parents += [above[i * counts[level - 1] // count] for i in range(count)]
        above = range(len(sizes), len(sizes) + count)
        sizes += [size] * count
    label = name or f"{','.join(map(str, counts))} / {','.join(map(str, tokens))}"
    return TreeShape(label, tuple(parents), tuple(sizes))


def shape_of(plan: Plan, name: str) -> TreeShape:
    """The tree that a plan was made for, with the tokens that its rows see now; nodes that none sees are left out."""
    segments, row_pos = plan.host.segments, plan.host.row_pos
    parents: list[int] = []
    tokens: list[int] = []
    open_nodes: list[tuple[int, int]] = []
    for row_begin, row_end, _, base, length in segments.tolist():
        while open_nodes and open_nodes[-1][1] <= row_begin:
            open_nodes.pop()
        seen = min(length, int(row_pos[row_end - 1]) + 1 - base)
        if seen > 0:
            parents.append(open_nodes[-1][0] if open_nodes else -1)
            open_nodes.append((len(tokens), row_end))
            tokens.append(seen)
    return TreeShape(name, tuple(parents), tuple(tokens))


# The trees that FastTree is evaluated on: nodes per level, tokens per node.
FASTTREE = tuple(
    balanced(counts, tokens)
    for counts, tokens in [
        ((1, 2, 64), (8, 256, 32)),
        ((1, 4, 256), (8, 256, 32)),
        ((1, 4, 8, 256), (8, 256, 256, 32)),
        ((1, 256), (256, 32)),
        ((1, 1024), (2048, 32)),
        ((1, 16, 64), (1024, 256, 32)),
        ((1, 4, 16, 512), (1024, 256, 128, 32)),
        ((1, 10), (4000, 400)),
        ((1, 4, 16, 64, 256, 1024), (256, 8, 256, 64, 32, 256)),
        ((1, 2, 4, 8, 16, 32, 64, 128, 1024), (16,) * 9),
        ((1, 2, 4, 8, 16, 32, 64, 128, 1024), (256, 128, 64, 16, 16, 16, 16, 16, 16)),
        ((1, 8, 16, 32, 64, 128, 1024), (256, 128, 64, 16, 16, 16, 16)),
        ((1, 8, 16, 32, 64, 256, 1024), (256, 128, 64, 16, 16, 16, 16)),
        ((1, 16, 32, 64, 128, 1024), (256, 128, 64, 16, 16, 16)),
        ((1, 16, 32, 64, 256, 1024), (256, 128, 64, 16, 16, 16)),
    ]
)


def random_shape(rng: Random, name: str = "random") -> TreeShape:
    """Uneven: up to four roots, nodes of 1 to 600 tokens, any number of children, some chains, up to 300 nodes."""
    roots, total = rng.randint(1, 4), rng.randint(1, 300)
    reach = rng.choice([3, 30, 300])
    longest = rng.choice([8, 60, 600])
    parents = [-1] * roots
    parents += [rng.randrange(max(0, node - reach), node) for node in range(roots, max(roots, total))]
    tokens = tuple(rng.randint(1, longest) for _ in parents)
    return TreeShape(name, tuple(parents), tokens)
