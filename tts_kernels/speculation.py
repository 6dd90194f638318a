"""Growing on over the barrier between steps: while some rows finish their step, children of others are begun.

They are the very children that the node will have, should it be expanded: what a child draws depends on its node's key
and its index alone. So the search finds the same with and without; only the work is done earlier, or in vain.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from torch import Tensor

from tts_kernels.admission import Row, Search
from tts_kernels.growth import Growth
from tts_kernels.rows import Rows
from tts_kernels.tree import State


class Speculation(Growth):
    """The part of a run that draws ahead of the decisions. Off unless the decoder is told to ``speculate``."""

    def grow(self, rows: list[Row]) -> None:
        # Under a limit, what is drawn ahead would have to be charged.
        if not self.decoder.speculate or self.strategy.limit is not None:
            super().grow(rows)
            return
        slots, growing, guests = len(rows), self.side_by_side(rows), self.side_by_side([])
        while growing:
            openers = self.openers(slots - len(growing) - len(guests))
            try:
                logits = self.feed_last(growing, guests, Rows(openers))
            except self.out_of_pages:
                self.cancel(openers)
                self.dismiss_all()
                guests, openers = self.side_by_side([]), []
                fed = self.fed(growing)
                if fed is None:
                    return
                logits = fed
            mine, theirs, last = logits.split([len(growing), len(guests), len(openers)])
            tokens, log_probs = self.draw(growing, mine, np.ones(len(growing), np.int32))
            self.follow(growing, mine, tokens)
            drawn = self.draw(guests, theirs, np.ones(len(guests), np.int32))
            begun = self.open(openers, last)
            self.take(guests, *drawn)
            if begun:
                guests = self.side_by_side([*guests, *begun])
            self.take(growing, tokens, log_probs)
        guests.write()

    def cancel(self, openers: list[Row]) -> None:
        self.policy.forest.release(np.array([row.kv for row in openers], np.int32))
        for row in openers:
            row.search.loose.discard(row.kv)

    def openers(self, free: int) -> list[Row]:
        """Branches of ended nodes that are the likeliest to be expanded, as many as have children for ``free`` rows."""
        leaves = [
            row for row in self.ended
            if row.search.alive and row.node.state is State.OPEN and not row.greedy
            and row.node.id not in row.search.early
        ]  # fmt: skip
        # Scores are not there yet: those of the parents tell best, then how sure the policy was.
        leaves.sort(key=lambda row: (row.node.score, row.node.log_prob / len(row.node.tokens)), reverse=True)
        width = self.strategy.width
        chosen = leaves[: max(0, free) // width]
        if not chosen:
            return []
        nodes = np.array([row.kv for row in chosen], np.int32)
        try:
            kvs = self.policy.pool.fork(nodes, np.ones(len(nodes), np.int32), keep=True).tolist()
        except self.out_of_pages:
            return []
        openers = []
        for row, kv in zip(chosen, kvs, strict=True):
            row.search.loose.add(kv)
            row.search.early[row.node.id] = {}
            openers.append(Row(row.search, row.node, kv, early=True))
        return openers

    def open(self, openers: list[Row], logits: Tensor) -> list[Row]:
        """The first tokens of the children of these branches."""
        if not openers:
            return []
        width = self.strategy.width
        kvs = [row.kv for row in openers]
        try:
            forked = self.policy.pool.fork(np.array(kvs, np.int32), np.full(len(kvs), width, np.int32)).tolist()
        except self.out_of_pages:
            self.cancel(openers)
            return []
        drawn = self.draw(Rows(openers), logits, np.full(len(openers), width))
        rows, new = [], iter(forked)
        for row in openers:
            row.search.loose.discard(row.kv)
            for index in range(width):
                child = Row(row.search, row.search.tree.new_child(row.node, index), next(new), early=True)
                row.search.loose.add(child.kv)
                row.search.early[row.node.id][index] = child
                rows.append(child)
        started = self.side_by_side(rows)
        self.take(started, *drawn)
        return list(started)

    # --- after the decision

    def claim(self, search: Search, node_id: int, indices: Iterable[int]) -> dict[int, Row]:
        """The early children of a node that is expanded; those beyond ``indices`` are given up."""
        early = search.early.pop(node_id, {})
        wanted = {index: early.pop(index) for index in indices if index in early}
        self.dismiss(search, early.values())
        return wanted

    def dismiss(self, search: Search, rows: Iterable[Row]) -> None:
        """These children will not be."""
        gone = list(rows)
        self.policy.forest.release(np.array([row.kv for row in gone], np.int32))
        search.loose -= {row.kv for row in gone}
        search.stats.wasted_tokens += sum(len(row.node.tokens) for row in gone)

    def dismiss_all(self) -> bool:
        """Give up all that was drawn ahead. False when there was nothing."""
        found = False
        for search in self.active:
            for children in search.early.values():
                found = found or bool(children)
                self.dismiss(search, children.values())
            search.early.clear()
        return found
