"""What only a GPU can show: graphs that survive appended tokens."""

import numpy as np
import pytest
import torch

from tts_kernels import _ext
from tts_kernels.backends import why_not
from tts_kernels.ops.tree_attention import tree_attention
from tts_kernels.ops.write_kv import write_kv
from tts_kernels.plan import make_plan
from tts_kernels.testing import assert_matches_oracle

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")

CUDA = torch.device("cuda")


@pytest.mark.parametrize("backend", ["native", "triton"])
def test_a_graph_is_replayed_while_leaves_grow(backend):
    for op in ("write_kv", "tree_attention"):
        reason = why_not(op, backend, CUDA)
        if reason is not None:
            pytest.skip(reason)
    forest = _ext.host().Forest(256, 16)
    root = forest.add_roots(1)
    forest.append(root, [300])
    leaves, _, _ = forest.fork(root, [24], False)
    ones = np.ones(len(leaves), np.int32)
    k, v = (torch.full((256, 2, 16, 64), torch.nan, dtype=torch.bfloat16, device=CUDA) for _ in "kv")
    used = torch.from_numpy(forest.page_table(int(leaves[0]))).long()
    k[used.to(CUDA)] = torch.randn(len(used), 2, 16, 64, dtype=k.dtype, device=CUDA)
    v[used.to(CUDA)] = torch.randn(len(used), 2, 16, 64, dtype=k.dtype, device=CUDA)
    q = torch.zeros(24, 8, 64, dtype=k.dtype, device=CUDA)
    new_k, new_v = (torch.zeros(24, 2, 64, dtype=k.dtype, device=CUDA) for _ in "kv")
    slots = torch.from_numpy(forest.append(leaves, ones)).to(CUDA)
    plan = make_plan(forest, leaves, ones, growth=40, page_reads=True, device=CUDA)

    def step():
        write_kv(new_k, new_v, k, v, slots, backend=backend)
        return tree_attention(q, k, v, plan, backend=backend)

    for _ in range(3):
        step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = step()
    for _ in range(40):
        for x in (q, new_k, new_v):
            x.normal_()
        slots.copy_(torch.from_numpy(forest.append(leaves, ones)))
        plan.update(forest)
        graph.replay()
        exact = tree_attention(q.double(), k.double(), v.double(), plan, backend="reference")
        assert_matches_oracle(out, exact, tree_attention(q, k, v, plan, backend="reference"), "out")
