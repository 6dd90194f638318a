"""Ways of decoding a tree, as lists of what their programs read: for ``bench_traffic.py``.

Each is counted by its published scheme at its best: whole tiles, no padding of partial results, nothing but what the
scheme itself moves. A program is a run of pages that are read one after the other for one kv head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tts_kernels.accounting import OTHERS_TILE, Call, Moved, seen
from tts_kernels.plan import make_plan
from tts_kernels.processors import PROCESSORS, AttentionShape, Processor, fewest_bytes
from tts_kernels.testing.trees import TreeShape

# DeFT cuts the flattened tree into chunks of this many tokens.
DEFT_CHUNK = 128
# vLLM shares one prefix of all requests when it is at least this long and they are at least so many.
VLLM_TOKENS, VLLM_ROWS = 256, 8


@dataclass(frozen=True)
class Decoding:
    """moved: requested bytes, all kv heads. flops: padding included. programs: pages read, one kv head."""

    moved: Moved
    flops: int
    programs: Callable[[], Iterator[np.ndarray]]


def run_pages(runs: np.ndarray, tokens: np.ndarray, page_size: int) -> list[np.ndarray]:
    """Entries of the plan's pages that each run reads."""
    return [np.arange(r[2], r[2] - (-int(t) // page_size)) for r, t in zip(runs, tokens, strict=True)]


def padded(matrix_rows: np.ndarray, tiles: tuple[int, ...]) -> np.ndarray:
    """Matrix rows that are computed for so many: the smallest tile that holds them, or several of the largest."""
    sizes = np.array(tiles)
    fitting = sizes[np.minimum(np.searchsorted(sizes, matrix_rows), len(sizes) - 1)]
    return -(-matrix_rows // fitting) * fitting


def ours(shape: TreeShape, attention: AttentionShape, processor: Processor, page_size: int) -> tuple[Call, Decoding]:
    forest, leaves = shape.grow(page_size)
    ones = np.ones(len(leaves), np.int32)
    call = Call(make_plan(forest, leaves, ones, shape=attention, processor=processor), attention, ones)
    host = call.plan.host
    tokens = seen(host.runs, call.row_pos)
    of_unit = np.repeat(np.arange(len(host.units)), host.units[:, 3] - host.units[:, 2])
    rows = (host.units[:, 1] - host.units[:, 0]).astype(np.int64) * attention.group
    work = (tokens * padded(rows, (16, 64, 256))[of_unit]).sum() * attention.kv_heads
    pages = run_pages(host.runs, tokens, page_size)

    def programs() -> Iterator[np.ndarray]:
        for _, _, begin, end, _ in host.units.tolist():
            yield np.concatenate(pages[begin:end])

    return call, Decoding(call.ours(), int(4 * attention.head_dim * work), programs)


class Others:
    """The other systems on the tree of a call."""

    def __init__(self, call: Call) -> None:
        self.call, self.shape = call, call.shape
        self.segments = call.plan.host.segments
        self.tokens = seen(self.segments, call.row_pos)
        self.rows = (self.segments[:, 1] - self.segments[:, 0]).astype(np.int64)
        self.pages = run_pages(self.segments, self.tokens, call.plan.page_size)

    def all(self) -> dict[str, Decoding]:
        return {
            "one part per level": self.per_node(self.call.per_level(), 256, (16, 64, 256)),
            "cascade (FlashInfer)": self.per_node(self.call.cascade(), OTHERS_TILE, (16, 64, 128)),
            "tree chunks (DeFT)": self.deft(),
            "single prefix (vLLM)": self.vllm(),
            "unshared paged": self.per_row(self.call.unshared()),
            "concatenate + expand (Hugging Face)": self.per_row(self.call.hugging_face()),
        }

    def flops(self, matrix_rows: np.ndarray, tokens: np.ndarray) -> int:
        return int(4 * self.shape.head_dim * self.shape.kv_heads * (matrix_rows * tokens).sum())

    def per_node(self, moved: Moved, tile: int, tiles: tuple[int, ...]) -> Decoding:
        counts = -(-self.rows * self.shape.group // tile)
        work = self.flops(padded(self.rows * self.shape.group, tiles), self.tokens)
        return Decoding(moved, work, lambda: (p for p, n in zip(self.pages, counts, strict=True) for _ in range(n)))

    def deft(self) -> Decoding:
        """Every query head reads the tree; a part of each row and chunk goes out in float32 and is added up."""
        group, heads = self.shape.group, self.shape.kv_heads
        chunks = -(-self.tokens // DEFT_CHUNK)
        pairs = int((self.rows * chunks).sum())
        part = group * 4 * (self.shape.head_dim + 1)
        moved = Moved(
            kv=int(self.tokens.sum()) * group * heads * self.shape.token_bytes, q=pairs * heads * self.shape.row_bytes,
            out=self.call.rows * heads * self.shape.row_bytes, parts=2 * pairs * heads * part, launches=2,
        )  # fmt: skip
        work = self.flops(padded(self.rows, (16, 64, 128)) * group, self.tokens)
        return Decoding(moved, work, lambda: (p for p in self.pages for _ in range(group)))

    def paths(self) -> Iterator[list[int]]:
        """Segments of each row's path."""
        open_segments: list[int] = []
        following = 0
        for row in range(self.call.rows):
            open_segments = [s for s in open_segments if self.segments[s, 1] > row]
            while following < len(self.segments) and self.segments[following, 0] <= row:
                open_segments.append(following)
                following += 1
            yield open_segments

    def per_row(self, moved: Moved) -> Decoding:
        ends = self.call.row_pos.astype(np.int64) + 1
        work = self.flops(padded(np.full(len(ends), self.shape.group), (16, 64, 128)), ends)
        return Decoding(moved, work, lambda: (np.concatenate([self.pages[s] for s in path]) for path in self.paths()))

    def vllm(self) -> Decoding:
        prefix = int(self.tokens[0]) if self.rows[0] == self.call.rows else 0
        alone = self.per_row(self.call.unshared())
        if prefix < VLLM_TOKENS or self.call.rows < VLLM_ROWS:
            return alone
        heads, rows, group = self.shape.kv_heads, self.call.rows, self.shape.group
        tiles = -(-rows * group // OTHERS_TILE)
        kv = alone.moved.kv - (rows - tiles) * prefix * heads * self.shape.token_bytes
        part = self.shape.row_bytes + 4 * group
        moved = Moved(kv, 2 * alone.moved.q, alone.moved.out, 4 * rows * heads * part, launches=3)

        def programs() -> Iterator[np.ndarray]:
            yield from (self.pages[0] for _ in range(tiles))
            yield from (
                np.concatenate([self.pages[s] for s in path[1:]] or [self.pages[0][:0]]) for path in self.paths()
            )

        shared = self.flops(padded(np.array([rows * group]), (16, 64, 128)), np.array([prefix]))
        own = alone.flops - self.flops(padded(np.full(rows, group), (16, 64, 128)), np.full(rows, prefix))
        return Decoding(moved, shared + own, programs)


def from_memory(decoding: Decoding, page_bytes: int, cache_bytes: int) -> int:
    """KV bytes of one kv head that miss a cache with least-recently-used pages; programs run one after the other."""
    cached: OrderedDict[int, None] = OrderedDict()
    capacity, missed = max(1, cache_bytes // page_bytes), 0
    for program in decoding.programs():
        for page in program.tolist():
            if page in cached:
                cached.move_to_end(page)
                continue
            missed += 1
            cached[page] = None
            if len(cached) > capacity:
                cached.popitem(last=False)
    return missed * page_bytes


def predicted_us(processor: Processor, moved: Moved, memory: int, flops: int, launch_us: float = 3.0) -> float:
    """Roofline: memory, cache and arithmetic overlap perfectly, launches do not."""
    limits = (
        memory / processor.memory_gb_s / 1e3, moved.total / processor.cache_gb_s / 1e3, flops / processor.tflops / 1e6
    )  # fmt: skip
    return max(limits) + launch_us * moved.launches


OURS = {"ours, fewest bytes": fewest_bytes(PROCESSORS["h100"]), "ours, fastest on H100": PROCESSORS["h100"]}
