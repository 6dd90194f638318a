import numpy as np
import pytest
import torch
from models import FAMILIES, VOCAB, dense_logits, tiny_model

from tts_kernels import _ext, accounting, hf
from tts_kernels.hf import TreeModel
from tts_kernels.plan import make_plan

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)


class Leaves:
    """Leaves of a forest with the tokens of their paths, the truth that the pool is compared with."""

    def __init__(self, tree_model, rng):
        self.tree_model = tree_model
        self.rng = rng
        self.paths = {}

    def feed(self, nodes, lengths):
        tokens = [self.rng.integers(0, VOCAB, length).tolist() for length in lengths]
        flat = np.concatenate([np.array(t) for t in tokens])
        counts = np.array(lengths, np.int32)
        hidden = self.tree_model.hidden(np.array(nodes, np.int32), flat, counts, np.cumsum(counts) - 1)
        for node, new in zip(nodes, tokens, strict=True):
            self.paths[node] = self.paths[node] + new
        return hidden

    def decode(self):
        """One token for every leaf, in a random order of leaves; returns its logits and the dense ones."""
        nodes = self.rng.permutation(list(self.paths))
        tokens = self.rng.integers(0, VOCAB, len(nodes))
        logits = self.tree_model.logits(nodes.astype(np.int32), tokens)
        for node, token in zip(nodes.tolist(), tokens.tolist(), strict=True):
            self.paths[node] = [*self.paths[node], token]
        with_plain_attention = [self.paths[node] for node in nodes.tolist()]
        return logits, with_plain_attention

    def add_roots(self, lengths):
        roots = self.tree_model.forest.add_roots(len(lengths)).tolist()
        self.paths |= {root: [] for root in roots}
        self.feed(roots, lengths)

    def fork(self, node, width):
        children = self.tree_model.pool.fork(np.array([node], np.int32), np.array([width], np.int32)).tolist()
        path = self.paths.pop(node)
        self.paths |= {child: path for child in children}

    def release(self, node):
        self.tree_model.forest.release(np.array([node], np.int32))
        del self.paths[node]


def walk(family, seed, page_size=4, backend=None):
    """Prompts, forks, several tokens at once, single tokens, releases: all logits met on the way."""
    model = tiny_model(family)
    tree_model = TreeModel(model, num_pages=300, page_size=page_size, backend=backend)
    tree_model.pool.pages.fill_(torch.nan)
    leaves = Leaves(tree_model, np.random.default_rng(seed))
    seen = []
    with tree_model.attached():
        leaves.add_roots([5, 1, 17])
        for node in list(leaves.paths):
            leaves.fork(node, 3)
        for _ in range(3):
            seen.append(leaves.decode())
        nodes = list(leaves.paths)
        leaves.feed(nodes, leaves.rng.integers(1, 9, len(nodes)).tolist())
        for node in nodes[::2]:
            leaves.release(node)
        for node in nodes[1::2]:
            leaves.fork(node, 2)
        leaves.add_roots([9])
        for _ in range(6):
            seen.append(leaves.decode())
        tree_model.forest.check()
    return model, seen


@pytest.mark.parametrize("family", FAMILIES)
def test_a_forest_equals_a_dense_forward(family):
    model, seen = walk(family, seed=1)
    for logits, paths in seen:
        want = dense_logits(model, paths)
        assert (logits - want).abs().max() <= 1e-5 * max(1.0, float(want.abs().max()))


@pytest.mark.parametrize("page_size", [1, 16])
@pytest.mark.parametrize("backend", ["reference", "native"])
def test_page_sizes_and_backends(page_size, backend):
    model, seen = walk("llama", seed=2, page_size=page_size, backend=backend)
    for logits, paths in seen:
        want = dense_logits(model, paths)
        assert (logits - want).abs().max() <= 1e-5 * float(want.abs().max())


def test_attention_is_given_back():
    model = tiny_model()
    before = model.config._attn_implementation
    with TreeModel(model, num_pages=8).attached():
        assert model.config._attn_implementation == "tts_kernels"
        with pytest.raises(TypeError, match="needs tree_cache="):
            model(input_ids=torch.zeros(1, 3, dtype=torch.long))
    assert model.config._attn_implementation == before


def test_long_inputs_are_fed_in_pieces(monkeypatch):
    model = tiny_model()
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, VOCAB, length) for length in (40, 3, 25)]
    counts = np.array([len(p) for p in prompts], np.int32)
    results = []
    for limit in (4096, 16):
        monkeypatch.setattr("tts_kernels.hf.MAX_CALL_TOKENS", limit)
        tree_model = TreeModel(model, num_pages=64)
        with tree_model.attached():
            roots = tree_model.forest.add_roots(3)
            results.append(tree_model.hidden(roots, np.concatenate(prompts), counts, np.cumsum(counts) - 1))
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)


def test_out_of_pages_changes_nothing():
    tree_model = TreeModel(tiny_model(), num_pages=3, page_size=4)
    forest = tree_model.forest
    with tree_model.attached():
        roots = forest.add_roots(2)
        tokens = np.arange(11)
        with pytest.raises(_ext.host().OutOfPages, match="wanted 4 pages, 3 free"):
            tree_model._call(tree_model.model, roots, np.arange(16), np.array([8, 8], np.int32))
        assert forest.free_pages == 3
        assert forest.length(roots).tolist() == [0, 0]
        tree_model.hidden(roots[:1], tokens, np.array([11], np.int32), np.array([10]))
        forest.check()


def test_models_that_cannot_be_served():
    with pytest.raises(TypeError, match="must be a transformers PreTrainedModel, got Linear"):
        TreeModel(torch.nn.Linear(2, 2))
    model = tiny_model()
    model._supports_attention_backend = False
    with pytest.raises(TypeError, match="LlamaForCausalLM does not use the attention interface"):
        TreeModel(model)
    with pytest.raises(ValueError, match="kv_bytes must be at least one frame"):
        TreeModel(tiny_model(), kv_bytes=10)
    with pytest.raises(ValueError, match="num_pages must be a positive int, got 0"):
        TreeModel(tiny_model(), num_pages=0)


def test_the_context_is_a_limit():
    tree_model = TreeModel(tiny_model(max_position_embeddings=8), num_pages=8)
    with tree_model.attached():
        roots = tree_model.forest.add_roots(1)
        with pytest.raises(ValueError, match="within the model's context of 8 tokens, got 9"):
            tree_model.hidden(roots, np.arange(9), np.array([9], np.int32), np.array([8]))
        assert tree_model.forest.length(roots).tolist() == [0]


def test_appended_tokens_need_no_new_plan(monkeypatch):
    plans = []
    monkeypatch.setattr(
        hf, "make_plan", lambda *args, **options: plans.append(make_plan(*args, **options)) or plans[-1]
    )
    tree_model = TreeModel(tiny_model(), num_pages=200, page_size=4)
    leaves = Leaves(tree_model, np.random.default_rng(0))
    with tree_model.attached():
        leaves.add_roots([30])
        leaves.fork(next(iter(leaves.paths)), 5)
        nodes = np.array(list(leaves.paths), np.int32)
        plans.clear()
        counted = tree_model.meter.count
        each = accounting.TrafficMeter()

        def count_twice(call, on_cpu):
            counted(call, on_cpu)
            # Without the shortcut for plans that live on.
            each._plan = None
            each.count(call, on_cpu)

        before = tree_model.meter._total
        monkeypatch.setattr(tree_model.meter, "count", count_twice)
        for _ in range(hf.PLAN_GROWTH):
            tree_model.logits(nodes, np.zeros(5, np.int64))
        assert len(plans) == 1
        assert np.array_equal(tree_model.meter._total - before, each._total)
        tree_model.pool.fork(nodes[:1], np.array([2], np.int32))
        tree_model.logits(nodes[1:], np.zeros(4, np.int64))
        assert len(plans) == 2


def test_bytes_are_counted_for_every_layer():
    """Five leaves of one root: what was read lies between the floor and what the others would have read."""
    tree_model = TreeModel(tiny_model(), num_pages=200, page_size=4)
    leaves = Leaves(tree_model, np.random.default_rng(0))
    with tree_model.attached():
        leaves.add_roots([40])
        leaves.fork(next(iter(leaves.paths)), 5)
        before = tree_model.counters()
        leaves.decode()
    spent = {key: value - before[key] for key, value in tree_model.counters().items()}
    token = 2 * 2 * 2 * 8 * 4
    assert spent["kv_bytes"] == spent["kv_bytes_floor"] == (40 + 5) * token
    assert spent["kv_bytes_unshared"] == 5 * 41 * token
    # Six query heads over two kv heads: 40 read, 41 written, 41 expanded to 123, 123 read.
    assert spent["kv_bytes_hugging_face"] == 5 * (40 + 41 + 41 + 123 + 123) * token
    assert spent["bytes"] == spent["kv_bytes"] + 2 * 2 * 5 * 48 * 4
    assert spent["kv_bytes_floor"] <= spent["kv_bytes_cascade"] <= spent["kv_bytes_unshared"]
