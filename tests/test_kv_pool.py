import random
from dataclasses import replace

import numpy as np
import pytest
import torch

from tts_kernels import _ext
from tts_kernels.backends import BACKENDS, why_not
from tts_kernels.kv_pool import KVLayout, KVMemory, fitting_page_sizes
from tts_kernels.ops.write_kv import write_kv

host = _ext.host()
BF16 = torch.bfloat16
# Bytes of which a NaN is made, in float32 as in bfloat16.
POISON = 255
# Two models, and frames for both.
PAIRS = {
    "equal": (KVLayout(2, 2, 8, 4), KVLayout(2, 2, 8, 4), 16),
    "small pages and large": (KVLayout(2, 2, 8, 4), KVLayout(5, 3, 16, 8, BF16), 24),
    "large pages and small": (KVLayout(4, 2, 16, 16, BF16), KVLayout(1, 1, 4, 2), 12),
    "odd": (KVLayout(1, 3, 5, 3, BF16), KVLayout(2, 1, 7, 5), 9),
    "one token": (KVLayout(3, 1, 1, 1, BF16), KVLayout(1, 2, 3, 1), 12),
}


class Twin:
    """A pool, and what its paths hold: each [tokens, 2 * layers, heads, head_dim], keys of layer l at 2 * l."""

    def __init__(self, memory, layout, backend, rng):
        self.pool = memory.pool(layout, backend)
        self.rng = rng
        self.generator = torch.Generator().manual_seed(rng.randrange(2**31))
        self.paths = {}

    def empty(self, count):
        layout = self.pool.layout
        shape = (count, 2 * layout.num_layers, layout.num_kv_heads, layout.head_dim)
        return torch.randn(shape, generator=self.generator).to(layout.dtype)

    def pick(self, leaves=True):
        forest = self.pool.forest
        nodes = [node for node in self.paths if not (leaves and forest.num_children(node))]
        return self.rng.sample(nodes, min(len(nodes), self.rng.randint(1, 3)))

    def add_root(self):
        (root,) = self.pool.forest.add_roots(1).tolist()
        self.paths[root] = self.empty(0)

    def append(self):
        nodes = self.pick()
        counts = [self.rng.randint(0, 2 * self.pool.page_size + 1) for _ in nodes]
        slots = torch.from_numpy(self.pool.forest.append(nodes, counts))
        tokens = self.empty(len(slots))
        for layer in range(self.pool.layout.num_layers):
            k, v = tokens[:, 2 * layer], tokens[:, 2 * layer + 1]
            write_kv(k, v, *self.pool.layer(layer), slots, backend=self.pool.backend)
        for node, own in zip(nodes, tokens.split(counts), strict=True):
            self.paths[node] = torch.cat([self.paths[node], own])

    def fork(self):
        nodes, keep = self.pick(leaves=False), self.rng.random() < 0.5
        widths = [self.rng.randint(1, 3) for _ in nodes]
        children = self.pool.fork(np.array(nodes, np.int32), np.array(widths, np.int32), keep).tolist()
        for node, width in zip(nodes, widths, strict=True):
            self.paths.update({children.pop(0): self.paths[node] for _ in range(width)})
            if not keep:
                del self.paths[node]

    def truncate(self):
        nodes = self.pick()
        counts = []
        for node in nodes:
            parent = self.pool.forest.parent(node)
            own = len(self.paths[node]) - (int(self.pool.forest.length([parent])[0]) if parent >= 0 else 0)
            counts.append(self.rng.randint(0, own))
            self.paths[node] = self.paths[node][: len(self.paths[node]) - counts[-1]]
        self.pool.forest.truncate(nodes, counts)

    def release(self):
        nodes = self.pick(leaves=False)
        self.pool.forest.release(nodes)
        for node in nodes:
            del self.paths[node]

    def frames(self):
        """Those that hold a token of any path."""
        stride = self.pool.forest.page_stride
        tables = [self.pool.forest.page_table(node) // stride for node in self.paths]
        return set(np.concatenate(tables).tolist()) if tables else set()

    def check(self):
        layout, forest = self.pool.layout, self.pool.forest
        forest.check()
        for node, wanted in self.paths.items():
            table = torch.from_numpy(forest.page_table(node)).long()
            stored = torch.stack([side[table] for i in range(layout.num_layers) for side in self.pool.layer(i)])
            tokens = stored.permute(1, 3, 0, 2, 4).flatten(0, 1)
            assert torch.equal(tokens[: len(wanted)], wanted)
        room = self.pool.pages[sorted(self.frames()), 2 * layout.num_layers :]
        assert room.isnan().all()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_two_models_share_one_memory(backend, pair, seed):
    if reason := why_not("copy_pages", backend, "cpu") or why_not("write_kv", backend, "cpu"):
        pytest.skip(reason)
    rng = random.Random(seed)
    *layouts, num_frames = PAIRS[pair]
    memory = KVMemory(layouts, 0, num_pages=num_frames)
    frames = memory.bytes.fill_(POISON).view(num_frames, -1)
    twins = [Twin(memory, layout, backend, rng) for layout in layouts]
    full = 0
    for _ in range(80):
        one, other = rng.sample(twins, 2)
        before, taken = frames.clone(), one.frames()
        move = rng.choice(
            [one.append, one.append, one.fork, one.truncate, one.release] if one.paths else [one.add_root]
        )
        try:
            move()
        except host.OutOfPages:
            full += 1
            assert torch.equal(frames, before)
        assert not one.frames() & other.frames()
        untouched = sorted(set(range(num_frames)) - one.frames())
        assert torch.equal(frames[untouched], before[untouched])
        # What a frame held belongs to nobody now: whoever takes it must not find it.
        frames[sorted(taken - one.frames())] = POISON
        for twin in twins:
            twin.check()
        assert sum(twin.pool.forest.used_pages for twin in twins) == num_frames - memory.frames.num_free
    assert full


def test_the_one_takes_what_the_other_gives_back():
    layouts = KVLayout(1, 2, 8, 4), KVLayout(3, 1, 4, 2, BF16)
    memory = KVMemory(layouts, 0, num_pages=4)
    first, second = (memory.pool(layout) for layout in layouts)
    assert (first.num_pages, second.num_pages, first.page_size, second.page_size) == (4, 4, 4, 2)
    root, other = first.forest.add_roots(1), second.forest.add_roots(1)
    first.forest.append(root, [12])
    with pytest.raises(host.OutOfPages, match=r"^append: wanted 2 pages, 1 free$"):
        second.forest.append(other, [3])
    first.forest.truncate(root, [4])
    second.forest.append(other, [3])
    with pytest.raises(host.OutOfPages, match=r"^fork: wanted 1 pages, 0 free$"):
        second.fork(other, np.array([2], np.int32))
    first.forest.release(root)
    assert len(second.fork(other, np.array([3], np.int32))) == 3
    assert (first.forest.used_pages, second.forest.used_pages, memory.frames.peak) == (0, 4, 4)
    first.forest.check()
    second.forest.check()


def test_memory_is_cut_into_as_many_frames_as_fit():
    layout = KVLayout(3, 2, 8, 4)
    assert (layout.slab_bytes, layout.page_bytes) == (256, 1536)
    for kv_bytes, frames in ((1536, 1), (4 * 1536 - 1, 3), (4 * 1536, 4)):
        memory = KVMemory([layout], kv_bytes)
        assert (memory.frame_bytes, memory.frames.count, memory.bytes.nbytes) == (1536, frames, frames * 1536)
        pool = memory.pool(layout)
        assert pool.pages.shape == (frames, 6, 2, 4, 8) and pool.num_pages == frames
        assert pool.forest.page_stride == 6


LLAMA_1B = KVLayout(16, 8, 64, 16, BF16)
QWEN_7B = KVLayout(28, 4, 128, 16, BF16)
SMOL_135M = KVLayout(30, 3, 64, 16, BF16)
QWEN_HALF_B = KVLayout(24, 2, 64, 16, BF16)


# By how much the frame is larger than a page of either model, at most.
@pytest.mark.parametrize(
    ("policy", "scorer", "page_sizes", "most"),
    [
        (LLAMA_1B, QWEN_7B, (16, 8), 1.15),
        (SMOL_135M, QWEN_7B, (16, 8), 1.34),
        # A small policy's pages are as large as the smallest ones of a large reward model.
        (QWEN_HALF_B, QWEN_7B, (32, 8), 1.17),
        (QWEN_7B, LLAMA_1B, (16, 32), 1.15),
        (QWEN_7B, QWEN_7B, (16, 16), 1.0),
        (SMOL_135M, SMOL_135M, (16, 16), 1.0),
        # A page of twice the bytes per token has half the tokens.
        (SMOL_135M, replace(SMOL_135M, dtype=torch.float32), (16, 8), 1.0),
    ],
)
def test_fitting_pages_waste_little(policy, scorer, page_sizes, most):
    fitting = fitting_page_sizes(policy, scorer)
    assert fitting == [replace(policy, page_size=page_sizes[0]), replace(scorer, page_size=page_sizes[1])]
    memory = KVMemory(fitting, 0, num_pages=1)
    for layout in fitting:
        assert layout.page_bytes <= memory.frame_bytes <= most * layout.page_bytes
        assert memory.pool(layout).num_pages == 1


@pytest.mark.parametrize("seed", range(20))
def test_no_other_page_sizes_waste_less(seed):
    rng = random.Random(seed)
    policy, scorer = (
        KVLayout(
            rng.randint(1, 40), rng.randint(1, 9), rng.choice([32, 64, 80, 128]), 16, rng.choice([BF16, torch.half])
        )
        for _ in "ab"
    )

    def used(sizes):
        pair = [replace(layout, page_size=size) for layout, size in zip((policy, scorer), sizes, strict=True)]
        frame = KVMemory(pair, 0, "meta", num_pages=1).frame_bytes
        return pair[0].page_bytes / frame * pair[1].page_bytes / frame

    first, second = [8, 16], [4, 16, 24]
    fitting = fitting_page_sizes(policy, scorer, first, second)
    assert used([layout.page_size for layout in fitting]) == max(used((a, b)) for a in first for b in second)


def test_of_page_sizes_that_waste_the_same_like_ones_fit():
    assert [layout.page_size for layout in fitting_page_sizes(QWEN_7B, QWEN_7B, [8, 32], [32, 8])] == [8, 8]


@pytest.mark.parametrize("name", ["num_layers", "num_kv_heads", "head_dim", "page_size"])
def test_layouts_of_nothing_are_refused(name):
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"KVLayout: {name} must be a positive int, got {size}"):
            replace(LLAMA_1B, **{name: size})


def test_bad_input_is_named():
    layout = KVLayout(2, 2, 8, 4)
    for kv_bytes in (-1, 0, 1023):
        with pytest.raises(ValueError, match=f"KVMemory: kv_bytes must be at least one frame of 1024 .*got {kv_bytes}"):
            KVMemory([layout], kv_bytes)
    for num_pages in (-1, 0):
        with pytest.raises(ValueError, match=f"KVMemory: num_pages must be a positive int, got {num_pages}"):
            KVMemory([layout], 1 << 20, num_pages=num_pages)
    memory = KVMemory([layout], 1 << 20)
    # Larger than a frame, no divisor of it, and one that would fit.
    for other in (replace(layout, num_layers=3), replace(layout, head_dim=6), replace(layout, num_layers=1)):
        with pytest.raises(ValueError, match=r"KVPool: layout must be one of the memory's .*, got KVLayout"):
            memory.pool(other)
    with pytest.raises(ValueError, match="KVMemory: layouts must be at least one, got none"):
        KVMemory([], 1 << 20)
    with pytest.raises(ValueError, match="fitting_page_sizes: sizes and other_sizes must be not empty, got none"):
        fitting_page_sizes(layout, layout, ())
