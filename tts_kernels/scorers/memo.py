"""The KV of everything that a reward model has read, over a forest of its own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from torch import Tensor

from tts_kernels.hf import TreeModel
from tts_kernels.scorers.reader import Reading, Stream, is_prefix
from tts_kernels.tree import Node, SearchTree


@dataclass(eq=False)
class Entry:
    """A path as far as it was read. ``base``: what it continues. ``uses``: how many nodes of searches stand on it.

    ``kv``: its node in the forest; None while its pages are given up, and after nobody stands on it any more.
    """

    stream: Stream
    base: Entry | None = None
    kv: int | None = None
    uses: int = 0

    def longest_prefix(self, ids: list[int]) -> Entry | None:
        """Of this entry and those it continues the longest that begins ``ids``."""
        entry: Entry | None = self
        while entry is not None and not is_prefix(entry.stream.ids, ids):
            entry = entry.base
        return entry


class Feed(NamedTuple):
    """``tokens`` to be read behind ``base``, and the places among them whose hidden states are wanted, ascending."""

    base: Entry | None
    tokens: list[int]
    places: list[int]

    @property
    def begin(self) -> int:
        """The position of the first token."""
        return len(self.base.stream.ids) if self.base else 0


@dataclass
class Job:
    """Nodes that read the same behind the same parent: they are one entry and get the very same score."""

    tree: SearchTree
    reading: Reading
    parent: Entry
    nodes: list[Node] = field(default_factory=list)
    entry: Entry | None = None


class Memo:
    """Reads tokens into the forest, gives pages up and reads what was given up again.

    ``spilled_pages`` and ``recomputed_tokens``: how much of that there was.
    """

    def __init__(self, model: TreeModel) -> None:
        self.model = model
        self.spilled_pages = 0
        self.recomputed_tokens = 0

    def feed(self, feeds: list[Feed]) -> tuple[list[int], Tensor, list[int]]:
        """Read everything in packed calls.

        Returns a new forest node per feed, the hidden states [sum of places, H] in an order of their own, and where in
        them each place is, feed by feed. Raises OutOfPages, having added nothing that is held.
        """
        kept = self._restored(feed.base for feed in feeds)
        try:
            return self._feed(feeds)
        finally:
            self.give_up(entry for entry in kept if entry.uses == 0)

    def _feed(self, feeds: list[Feed]) -> tuple[list[int], Tensor, list[int]]:
        # Children of one node must be adjacent for the fork; a stable sort keeps everything else in the caller's order.
        rank = {base: place for place, base in enumerate(dict.fromkeys(feed.base for feed in feeds))}
        order = sorted(range(len(feeds)), key=lambda i: (feeds[i].base is not None, rank[feeds[i].base]))
        nodes = self._new_nodes([feeds[i].base for i in order])
        counts = np.array([len(feeds[i].tokens) for i in order], np.int32)
        starts = np.cumsum(counts) - counts
        tokens = np.array([token for i in order for token in feeds[i].tokens], np.int64)
        places = [start + place for i, start in zip(order, starts.tolist(), strict=True) for place in feeds[i].places]
        try:
            hidden = self.model.hidden(nodes, tokens, counts, np.array(places, np.int64))
        except BaseException:
            self.model.forest.release(nodes)
            raise
        begins = np.zeros(len(feeds), np.int64)
        sizes = [len(feeds[i].places) for i in order]
        begins[order] = np.cumsum(sizes) - sizes
        where = [int(begin) + k for feed, begin in zip(feeds, begins, strict=True) for k in range(len(feed.places))]
        by_feed = np.empty(len(feeds), np.int64)
        by_feed[order] = nodes
        return by_feed.tolist(), hidden, where

    def _new_nodes(self, bases: list[Entry | None]) -> np.ndarray:
        """A node behind each base, those without a base first."""
        based = [base for base in bases if base is not None]
        distinct = list(dict.fromkeys(based))
        widths = np.array([sum(base is one for base in based) for one in distinct], np.int32)
        roots = self.model.forest.add_roots(len(bases) - len(based))
        try:
            kvs = np.array([base.kv for base in distinct], np.int32)
            return np.concatenate([roots, self.model.pool.fork(kvs, widths, keep=True)])
        except BaseException:
            self.model.forest.release(roots)
            raise

    def _restored(self, entries: Iterable[Entry | None]) -> list[Entry]:
        """Read again what these need and was given up. Returns the entries that were."""
        missing: dict[Entry, None] = {}
        for entry in entries:
            while entry is not None and entry.kv is None:
                missing[entry] = None
                entry = entry.base
        restored: list[Entry] = []
        while todo := [e for e in missing if e.kv is None and (e.base is None or e.base.kv is not None)]:
            starts = [0 if e.base is None else len(e.base.stream.ids) for e in todo]
            feeds = [Feed(e.base, e.stream.ids[start:], []) for e, start in zip(todo, starts, strict=True)]
            try:
                nodes, *_ = self._feed(feeds)
            except BaseException:
                self.give_up(entry for entry in restored if entry.uses == 0)
                raise
            for entry, node in zip(todo, nodes, strict=True):
                entry.kv = node
            self.recomputed_tokens += sum(len(feed.tokens) for feed in feeds)
            restored += todo
        return restored

    def truncate(self, nodes: list[int], counts: list[int]) -> None:
        """Forget the last counts[i] tokens of nodes[i]."""
        cut = [(node, count) for node, count in zip(nodes, counts, strict=True) if count]
        if cut:
            self.model.forest.truncate(*np.array(cut, np.int32).T)

    def give_up(self, entries: Iterable[Entry]) -> None:
        """Release the forest's nodes of these entries."""
        held = [entry for entry in dict.fromkeys(entries) if entry.kv is not None]
        self.model.forest.release(np.array([entry.kv for entry in held], np.int32))
        for entry in held:
            entry.kv = None

    def spill(self, entries: Iterable[Entry]) -> bool:
        """Give up the pages of entries that are still in use. False when they have none."""
        before = self.model.forest.used_pages
        self.give_up(entries)
        freed = before - self.model.forest.used_pages
        self.spilled_pages += freed
        return freed > 0


def feeds_of(job: Job) -> tuple[Entry, Feed | None, list[Feed]]:
    """What must be read for a job: its entry, the way there, and a path of its own for each step that stands apart."""
    reading, ids = job.reading, job.reading.stream.ids
    straight = [place for place in reading.places if isinstance(place, int)]
    alone = []
    for place in reading.places:
        if isinstance(place, list):
            base = job.parent.longest_prefix(place)
            begin = len(base.stream.ids) if base else 0
            alone.append(Feed(base, place[begin:], [len(place) - 1 - begin]))
    if not reading.places and ids == job.parent.stream.ids:
        return job.parent, None, alone
    base = job.parent.longest_prefix(ids)
    begin = len(base.stream.ids) if base else 0
    feed = Feed(base, ids[begin:] + reading.tail, [place - begin for place in straight])
    return Entry(reading.stream, base), feed, alone
