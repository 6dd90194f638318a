"""invariant=True: a row has the same bits alone, among siblings, shared or not, first or last in the batch."""

from dataclasses import dataclass, field

import numpy as np
import pytest
import torch

from tts_kernels import _ext
from tts_kernels.backends import why_not
from tts_kernels.ops.tree_attention import tree_attention
from tts_kernels.ops.write_kv import write_kv
from tts_kernels.plan import make_plan
from tts_kernels.testing import assert_matches_oracle, peaky

PAGE = 16


@pytest.fixture(params=["native", "triton"])
def kernel(request, device):
    reason = why_not("tree_attention", request.param, device)
    if reason is not None:
        pytest.skip(reason)
    return request.param


@dataclass
class Batch:
    """A forest, its pool of poisoned pages, and leaves whose queries are known."""

    heads: tuple[int, int, int]
    dtype: torch.dtype
    device: torch.device
    num_pages: int = 2048
    leaves: list[int] = field(default_factory=list)
    queries: list[torch.Tensor] = field(default_factory=list)

    def __post_init__(self):
        shape = (self.num_pages, self.heads[1], PAGE, self.heads[2])
        self.k, self.v = (torch.full(shape, torch.nan, dtype=self.dtype, device=self.device) for _ in "kv")
        self.forest = _ext.host().Forest(self.num_pages, PAGE)

    def fill(self, node, seed, tokens):
        """Append tokens [0, tokens) of the sequence `seed`, behind what the node's path holds of it."""
        generator = torch.Generator().manual_seed(seed)
        begin = int(self.forest.length([node])[0])
        both = peaky(2, 1024, self.heads[1], self.heads[2], generator=generator, dtype=self.dtype).to(self.device)
        slots = torch.from_numpy(self.forest.append([node], [tokens - begin])).to(self.device)
        write_kv(both[0, begin:tokens], both[1, begin:tokens], self.k, self.v, slots)

    def fork(self, node, width):
        children, src, dst = self.forest.fork([node], [width], False)
        for pages in (self.k, self.v):
            pages[torch.from_numpy(dst).long()] = pages[torch.from_numpy(src).long()]
        return children.tolist()

    def add(self, node, seed):
        generator = torch.Generator().manual_seed(1000 + seed)
        self.queries.append(peaky(self.heads[0], self.heads[2], generator=generator, dtype=self.dtype))
        self.leaves.append(node)

    def attend(self, kernel, window=0, growth=0):
        ones = np.ones(len(self.leaves), np.int32)
        plan = make_plan(
            self.forest, self.leaves, ones, invariant=True, growth=growth, page_reads=True, device=self.device
        )
        q = torch.stack(self.queries).to(self.device)
        args = (q, self.k, self.v, plan)
        out, lse = tree_attention(*args, window=window, return_lse=True, backend=kernel)
        exact = tree_attention(q.double(), self.k.double(), self.v.double(), plan, window=window, backend="reference")
        same = tree_attention(*args, window=window, backend="reference")
        assert_matches_oracle(out, exact, same, "out")
        return out, lse


def alone(batch, tokens):
    root = int(batch.forest.add_roots(1)[0])
    batch.fill(root, 0, tokens)
    batch.add(root, 0)
    return 0


def among_siblings(batch, tokens, shared, siblings, place):
    """The row's path forks after `shared` tokens; its siblings go on with other tokens."""
    root = int(batch.forest.add_roots(1)[0])
    batch.fill(root, 0, shared)
    for i, child in enumerate(batch.fork(root, siblings + 1)):
        own = i == place
        batch.fill(child, 0 if own else 50 + i, tokens if own else shared + 1 + i % 37)
        batch.add(child, 0 if own else 50 + i)
    return place


def among_strangers(batch, tokens, strangers, place):
    for i in range(strangers + 1):
        root = int(batch.forest.add_roots(1)[0])
        batch.fill(root, 0 if i == place else 50 + i, tokens if i == place else 1 + 97 * i % 500)
        batch.add(root, 0 if i == place else 50 + i)
    return place


@pytest.mark.parametrize("tokens", [40, 256, 257, 600])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_bits_depend_on_the_row_alone(kernel, device, dtype, tokens):
    slow = kernel == "triton" and device.type == "cpu"
    heads = (2, 1, 16) if slow else (6, 2, 64)

    def result(build, *args, **options):
        batch = Batch(heads, dtype, device)
        row = build(batch, tokens, *args)
        out, lse = batch.attend(kernel, **options)
        return out[row], lse[row]

    wanted = result(alone)
    shared = tokens * 9 // 10
    cases = [
        (among_siblings, shared, 1, 0), (among_siblings, shared, 63, 63), (among_siblings, tokens // 3, 15, 7),
        (among_strangers, 1, 1), (among_strangers, 40, 0), (among_strangers, 40, 40),
    ]  # fmt: skip
    if slow:
        # The interpreter takes milliseconds per tile.
        few = [(among_siblings, tokens // 3, 5, 3), (among_strangers, 3, 3)]
        cases = [(among_siblings, shared, 63, 63)] if tokens == 257 and dtype == torch.bfloat16 else few
    for build, *args in cases:
        for got, want in zip(result(build, *args), wanted, strict=True):
            assert torch.equal(got, want), (build.__name__, args)
    for got, want in zip(result(among_siblings, shared, 2, 1, growth=300), wanted, strict=True):
        assert torch.equal(got, want)
    windowed = result(alone, window=100)
    for got, want in zip(result(among_siblings, shared, 4, 3, window=100), windowed, strict=True):
        assert torch.equal(got, want)


def test_shared_splits_are_read_once_and_no_row_sees_two_lists_of_the_same(device):
    batch = Batch((4, 2, 32), torch.float32, device)
    root = int(batch.forest.add_roots(1)[0])
    batch.fill(root, 0, 600)
    for i, child in enumerate(batch.fork(root, 8)):
        batch.fill(child, i + 1, 620)
        batch.add(child, i)
    plan = make_plan(batch.forest, batch.leaves, [1] * 8, invariant=True)
    # Two whole splits for all rows, then each row's own: 88 shared tokens and what follows.
    runs = sorted((end - begin, base, length) for begin, end, _, base, length in plan.runs.tolist())
    assert runs == [(1, 512, 112)] * 8 + [(8, 0, 256), (8, 256, 256)]
