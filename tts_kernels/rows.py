"""Rows of one model call side by side, in arrays, so that nothing is done per row and token."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from tts_kernels.admission import Expansion, Row, Search
from tts_kernels.search import Sampling

# Tokens that rows draw before all of them are written to their nodes.
BLOCK = 64


def signed(keys: Sequence[int]) -> np.ndarray:
    """64-bit keys as the int64 of the same bits."""
    return np.array(keys, np.uint64).view(np.int64)


class Rows:
    """Rows of one model call side by side. ``last``: each node's last token. ``early``: nobody is charged for them.

    ``of``: each row's entry of ``searches``.
    """

    per_row: tuple[str, ...] = ("rows", "kv", "keys", "ends", "last", "greedy", "of")

    def __init__(self, rows: Sequence[Row | Expansion]) -> None:
        order = {row.search: None for row in rows}
        places = {search: index for index, search in enumerate(order)}
        self.searches = list(order)
        self.early = len(rows) > 0 and rows[0].early
        self.rows = np.array(rows, object)
        self.kv = np.array([row.kv for row in rows], np.int32)
        self.keys = signed([row.node.key for row in rows])
        self.ends = np.array([row.node.end for row in rows], np.int32)
        self.last = np.array([row.node.tokens[-1] if row.node.tokens else 0 for row in rows], np.int64)
        self.greedy = np.array([row.greedy for row in rows], bool)
        self.of = np.array([places[row.search] for row in rows], np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def by_search(self, amounts: np.ndarray) -> list[tuple[Search, int, int]]:
        """For each search the number of its rows, and the sum of their ``amounts``."""
        counts = np.bincount(self.of, minlength=len(self.searches)).tolist()
        sums = np.bincount(self.of, amounts, len(self.searches)).tolist()
        return [(s, count, int(total)) for s, count, total in zip(self.searches, counts, sums, strict=True) if count]

    def write(self) -> None:
        """Tell the nodes what was drawn."""

    def __iter__(self) -> Iterator:
        self.write()
        return iter(self.rows.tolist())

    def keep(self, chosen: np.ndarray) -> None:
        """Only these rows, bool [n], go on."""
        for name in self.per_row:
            setattr(self, name, getattr(self, name)[chosen])


class Growing(Rows):
    """Rows whose nodes grow. Nothing is done per row and token: a node hears of its tokens when a step ends, when a
    block is full, and before somebody asks.

    ``watch``: the end of the path at which a limit may end the row. ``drawn``: [n, BLOCK], ``filled`` of them; the node
    has those before ``told``. ``leaders``, ``followers``: the row and the key of each node that has drawn the same.
    """

    per_row = (*Rows.per_row, "states", "watch", "log_probs", "drawn", "told")

    def __init__(self, rows: Sequence[Row], sampling: Sampling, max_length: int) -> None:
        super().__init__(rows)
        size, steps = len(rows), [2**31 if row.whole else sampling.max_step_tokens for row in rows]
        limits = zip(rows, steps, strict=True)
        self.watch = np.array(
            [min(row.node.origin + sampling.max_tokens, max_length, row.node.start + step) for row, step in limits],
            np.int64,
        )
        self.states = np.array([row.detector_state for row in rows], np.int16)
        self.log_probs = np.array([row.node.log_prob for row in rows], np.float64)
        self.drawn, self.filled, self.told = np.empty((size, BLOCK), np.int64), 0, np.zeros(size, np.int64)
        self.leaders = np.repeat(np.arange(size), [len(row.followers) for row in rows])
        self.followers = signed([key for row in rows for key in row.followers])

    def add(self, tokens: np.ndarray, log_probs: np.ndarray) -> None:
        """A token for every row."""
        if self.filled == BLOCK:
            self.write()
            self.filled = 0
            self.told[:] = 0
        self.drawn[:, self.filled] = self.last = tokens
        self.filled += 1
        self.ends += 1
        self.log_probs += log_probs

    def write(self) -> None:
        for index in range(len(self)):
            self.write_row(index)

    def write_row(self, index: int) -> Row:
        row = self.rows[index]
        row.node.tokens += self.drawn[index, self.told[index] : self.filled].tolist()
        self.told[index] = self.filled
        row.node.log_prob = float(self.log_probs[index])
        row.detector_state = int(self.states[index])
        row.followers = self.followers[self.leaders == index].view(np.uint64).tolist()
        return row

    def keep(self, chosen: np.ndarray) -> None:
        super().keep(chosen)
        followed = chosen[self.leaders]
        self.leaders, self.followers = (np.cumsum(chosen) - 1)[self.leaders[followed]], self.followers[followed]
