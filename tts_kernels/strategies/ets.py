"""ETS: REBASE among the leaves that are worth the KV they keep alive (Hooper et al. 2502.13575)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array
from scipy.spatial.distance import pdist

from tts_kernels._checks import expect
from tts_kernels.strategies.base import Allocation, Decision, Play
from tts_kernels.strategies.rebase import Rebase
from tts_kernels.tree import Node, SearchTree

# Cosine distance below which two steps say the same.
SAME = 0.05


class ETS(Rebase):
    """Before each REBASE allocation a subset of the leaves is chosen: the sum of their REBASE shares, less
    ``cost`` times the share of nodes that it keeps alive, plus ``coverage`` times the share of clusters of like steps
    that it reaches, is largest.

    embed: step's tokens [list of lists] -> vectors [n, d] that are clustered by cosine distance (average linkage). The
    paper embeds the steps' text with a BERT for mathematics; by default tokens are counted.
    """

    name = "ets"
    reads_scores = True

    def __init__(
        self,
        budget: int,
        temperature: float = 0.2,
        cost: float = 1.0,
        coverage: float = 1.5,
        max_depth: int = 25,
        embed: Callable[[list[list[int]]], np.ndarray] | None = None,
    ) -> None:
        super().__init__(budget, temperature, max_depth)
        for name, value in (("cost", cost), ("coverage", coverage)):
            expect(self.name, 0 <= value < float("inf"), name, "at least 0 and finite", value)
        self.cost, self.coverage = cost, coverage
        self.embed = embed or count_tokens

    def share(self, tree: SearchTree, candidates: list[Node], budget: int) -> Play:
        chosen = self.choose(tree, candidates)
        kept = [node for node, use in zip(candidates, chosen, strict=True) if use]
        dropped = [node for node, use in zip(candidates, chosen, strict=True) if not use]
        yield Decision(share=[Allocation(kept, len(kept), budget, "rebase", self.temperature)], release=dropped)

    def choose(self, tree: SearchTree, leaves: list[Node]) -> np.ndarray:
        """Which leaves to keep, bool [n]: the integer program of section 4.2."""
        scores = np.array([leaf.score for leaf in leaves])
        shares = np.exp((scores - scores.max()) / self.temperature)
        shares /= shares.sum()
        above = [[node.id for node in tree.lineage(leaf)[1:-1]] for leaf in leaves]
        nodes = {id: place for place, id in enumerate(sorted({id for ids in above for id in ids}))}
        groups = clusters(self.embed([leaf.tokens for leaf in leaves]))
        n, m, k = len(leaves), len(nodes), int(groups.max()) + 1
        # Variables: leaves kept, nodes above them alive, clusters reached.
        price = self.cost / (n + m)
        worth = np.concatenate([shares - price, np.full(m, -price), np.full(k, self.coverage / k)])
        edges = [(n + nodes[id], leaf) for leaf, ids in enumerate(above) for id in ids]
        rows = [[(place, 1.0), (leaf, -1.0)] for place, leaf in edges]
        for group in range(k):
            members: list[int] = np.flatnonzero(groups == group).tolist()
            rows.append([(n + m + group, -1.0), *((leaf, 1.0) for leaf in members)])
        rows.append([(leaf, 1.0) for leaf in range(n)])
        entries = [(row, place, value) for row, terms in enumerate(rows) for place, value in terms]
        where, places, values = zip(*entries, strict=True)
        matrix = coo_array((values, (where, places)), shape=(len(rows), n + m + k))
        least = np.zeros(len(rows))
        least[-1] = 1.0
        # With the leaves whole, so are the others at the best.
        whole = (np.arange(n + m + k) < n).astype(int)
        found = milp(
            -worth,
            integrality=whole,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, lb=least),
            options={"mip_rel_gap": 0.0},
        )
        if found.x is None:
            raise RuntimeError(f"ets: the integer program of {n} leaves was not solved: {found.message}")
        return found.x[:n] > 0.5


def count_tokens(steps: list[list[int]]) -> np.ndarray:
    """How often each token occurs in each step, [n, distinct tokens]."""
    places = {token: place for place, token in enumerate(sorted({token for step in steps for token in step}))}
    counts = np.zeros((len(steps), len(places)))
    for row, step in enumerate(steps):
        np.add.at(counts[row], [places[token] for token in step], 1.0)
    return counts


def clusters(vectors: np.ndarray) -> np.ndarray:
    """The cluster of each vector, int [n], counted from 0."""
    if len(vectors) == 1:
        return np.zeros(1, int)
    return fcluster(linkage(pdist(vectors, "cosine"), "average"), SAME, "distance") - 1
