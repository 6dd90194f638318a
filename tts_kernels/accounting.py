"""Bytes of one attention call, counted from its plan: what ours requests, the least possible, and what others would.

All figures are requests (from the shared cache to the processors), for one layer and all kv heads. A sliding window is
taken off none of them. Bytes from memory are fewer where several units request the same keys and these stay in the
cache.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property

import numpy as np

from tts_kernels.plan import Plan
from tts_kernels.processors import AttentionShape

# Matrix rows of a tile in the kernels that the others are known for.
OTHERS_TILE = 128
# What a model's calls are compared with.
OTHERS = ("floor", "unshared", "cascade", "hugging_face")


@dataclass(frozen=True)
class Moved:
    """Bytes, and how many kernels are launched. kv: keys and values. copied: KV written and read again by copies.

    q, out: queries and results. parts: partial results, written and read back, with their lse.
    """

    kv: int = 0
    q: int = 0
    out: int = 0
    parts: int = 0
    copied: int = 0
    launches: int = 1

    @property
    def total(self) -> int:
        return self.kv + self.q + self.out + self.parts + self.copied


def seen(runs: np.ndarray, row_pos: np.ndarray) -> np.ndarray:
    """Tokens of each run [R, 5] that its rows see, int64 [R]."""
    ends = row_pos[runs[:, 1] - 1].astype(np.int64) + 1 if len(runs) else np.zeros(0, np.int64)
    return np.clip(ends - runs[:, 3], 0, runs[:, 4])


@dataclass(frozen=True)
class Call:
    """The integers of a plan that the counts are made from. counts: rows of each leaf, as given to ``make_plan``."""

    plan: Plan
    shape: AttentionShape
    counts: np.ndarray

    @cached_property
    def row_pos(self) -> np.ndarray:
        return self.plan.host.row_pos

    @property
    def rows(self) -> int:
        return self.plan.num_rows

    def _moved(self, kv_tokens: float, q_rows: int, part_rows: float = 0, **others: int) -> Moved:
        """From tokens, rows and partial rows of one kv head."""
        heads, shape = self.shape.kv_heads, self.shape
        return Moved(
            kv=int(kv_tokens * heads * shape.token_bytes), q=q_rows * heads * shape.row_bytes,
            out=self.rows * heads * shape.row_bytes, parts=int(part_rows * heads), **others,
        )  # fmt: skip

    def ours(self, tile: int = 256, on_cpu: bool = False) -> Moved:
        """Each unit reads its runs once per kv head and ``tile`` matrix rows. All but the last part of a row are stored
        and read back."""
        host = self.plan.host
        units, tokens = host.units, seen(host.runs, self.row_pos)
        widths = units[:, 1].astype(np.int64) - units[:, 0]
        tiles = -(-widths // max(1, tile // self.shape.group))
        of_unit = np.repeat(np.arange(len(units)), units[:, 3] - units[:, 2])
        parts = np.maximum(np.diff(host.join_ptr).astype(np.int64) - 1, 0).sum()
        return self._moved(
            (tokens * tiles[of_unit]).sum(), int(widths.sum()), 2 * parts * self.shape.part_bytes(on_cpu)
        )

    def floor(self) -> Moved:
        """Every token that is seen, every query and every result once."""
        return self._moved(self.unique_tokens(), self.rows)

    def unique_tokens(self) -> int:
        """Tokens that any row sees, each counted once however many nodes or units list it."""
        host = self.plan.host
        tokens = seen(host.segments, self.row_pos)
        nodes, node = np.unique(host.segments[:, 2], return_inverse=True)
        longest = np.zeros(len(nodes), np.int64)
        np.maximum.at(longest, node, tokens)
        return int(longest.sum())

    def _leaf_ends(self) -> np.ndarray:
        """Path length of each leaf with rows."""
        return self.row_pos[np.cumsum(self.counts[self.counts > 0]) - 1].astype(np.int64) + 1

    def _tiles_ends(self) -> np.ndarray:
        """Path length that each tile of rows of one leaf sees, when leaves share nothing."""
        if (self.counts == 1).all():
            return self.row_pos.astype(np.int64) + 1
        most = max(1, OTHERS_TILE // self.shape.group)
        ends = np.cumsum(self.counts)
        tiles = [np.arange(end, end - count, -most) for end, count in zip(ends, self.counts, strict=True)]
        last = np.concatenate(tiles) if tiles else np.zeros(0, np.int64)
        return self.row_pos[last - 1].astype(np.int64) + 1

    def unshared(self) -> Moved:
        """Paged attention that knows nothing of shared prefixes: every leaf reads its path once per kv head."""
        return self._moved(self._tiles_ends().sum(), self.rows)

    def hugging_face(self) -> Moved:
        """A cache per leaf: concatenated with the new tokens, expanded to the query heads, then attended to."""
        group, kv = self.shape.group, self.shape.kv_heads * self.shape.token_bytes
        ends, new = self._leaf_ends().sum(), self.rows
        copied = (ends - new) + ends + ((1 + group) * ends if group > 1 else 0)
        return self._moved(
            self._tiles_ends().sum() * group, self.rows, copied=int(copied) * kv, launches=3 + 2 * (group > 1)
        )

    def _segments(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and seen tokens of every segment of the tree, int64."""
        segments = self.plan.host.segments
        return segments[:, 1].astype(np.int64) - segments[:, 0], seen(segments, self.row_pos)

    def cascade(self) -> Moved:
        """A launch per level of the tree, partial results of every level stored, and merged pair by pair."""
        rows, tokens = self._segments()
        tiles = -(-rows * self.shape.group // OTHERS_TILE)
        part = self.shape.row_bytes + 4 * self.shape.group
        merged = int(rows[tokens > 0].sum()) - self.rows
        return self._moved((tokens * tiles).sum(), int(rows.sum()), 4 * merged * part, launches=2 * self._levels() - 1)

    def per_level(self) -> Moved:
        """As ours does it, but with a unit of its own for every node: one launch, a part per level."""
        rows, tokens = self._segments()
        tiles = -(-rows // max(1, 256 // self.shape.group))
        parts = int(rows[tokens > 0].sum()) - self.rows
        return self._moved((tokens * tiles).sum(), int(rows[tokens > 0].sum()), 2 * parts * self.shape.part_bytes())

    def _levels(self) -> int:
        """Most segments on one path."""
        segments = self.plan.host.segments
        change = np.zeros(self.rows + 1, np.int64)
        np.add.at(change, segments[:, 0], 1)
        np.add.at(change, segments[:, 1], -1)
        return max(1, int(np.cumsum(change).max(initial=0)))


class TrafficMeter:
    """What the calls of a model moved, per layer, as their plans have it.

    ``moved``: by ours and by the OTHERS. ``attended``: pairs of a row and a token that it sees.
    """

    def __init__(self) -> None:
        self.calls = self.tokens = self.attended = 0
        self._total = np.zeros((1 + len(OTHERS), len(fields(Moved))), np.int64)
        self._plan: Plan | None = None
        self._last = self._growth = self._total

    @property
    def moved(self) -> dict[str, Moved]:
        return {name: Moved(*row) for name, row in zip(("ours", *OTHERS), self._total.tolist(), strict=True)}

    def count(self, call: Call, on_cpu: bool) -> None:
        self.calls += 1
        self.tokens += call.rows
        self.attended += int(call.row_pos.sum()) + call.rows
        # A plan that lives on sees one more token per row: what it moves grows by the same every call.
        if call.plan is not self._plan:
            self._plan, self._last, self._growth = call.plan, self._counted(call, on_cpu), self._total[:0]
        elif len(self._growth) == 0:
            now = self._counted(call, on_cpu)
            self._last, self._growth = now, now - self._last
        else:
            self._last = self._last + self._growth
        self._total = self._total + self._last

    def _counted(self, call: Call, on_cpu: bool) -> np.ndarray:
        moved = [call.ours(on_cpu=on_cpu), *(getattr(call, name)() for name in OTHERS)]
        # Not astuple, which copies deeply: this is done for every fork.
        return np.array([tuple(vars(each).values()) for each in moved], np.int64)
