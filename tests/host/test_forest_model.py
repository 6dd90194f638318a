"""Forest against a plain model: every path is a list of tags, appends write tags into a pool and forks copy pages."""

import random
from collections import Counter
from dataclasses import dataclass

import numpy as np
import pytest
from host_helpers import dump
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tts_kernels import _ext

host = _ext.host()
POISON = -1


@dataclass
class ModelNode:
    tags: list
    parent: int
    base: int
    num_pages: int = 0
    held: bool = True


class ForestMachine(RuleBasedStateMachine):
    # Hypothesis chooses the rules; arguments drawn by it come out small, and deep trees hardly ever.
    @initialize(seed=st.integers(0, 2**32 - 1))
    def start(self, seed):
        self.rng = rng = random.Random(seed)
        self.page_size = page_size = rng.choice([1, 4, 16])
        num_pages = rng.randint(4, 80)
        self.forest = host.Forest(num_pages, page_size)
        self.pool = np.full(num_pages * page_size, POISON)
        self.nodes = {}
        self.ever = set()
        self.num_tags = 0
        self.peak = 0
        self.add_roots(2)
        self.grow("append", [0, 1])

    def ceil_pages(self, tokens):
        return -(-tokens // self.page_size)

    @property
    def free(self):
        return self.forest.num_pages - sum(node.num_pages for node in self.nodes.values())

    def held_nodes(self, parents):
        """Held nodes with children, or without."""
        have_children = {model.parent for model in self.nodes.values()}
        return [n for n, model in self.nodes.items() if model.held and (n in have_children) == parents]

    def pick_nodes(self, parents=(False, True)):
        held = [node for kind in parents for node in self.held_nodes(kind)]
        return self.rng.sample(held, min(len(held), self.rng.choice([0, 1, 1, 2, 3])))

    def call(self, op, wanted, free, *args, **kwargs):
        """Returns None, with nothing changed, exactly when the model has no pages left."""
        before = dump(self.forest, list(self.nodes))
        try:
            result = getattr(self.forest, op)(*args, **kwargs)
        except host.OutOfPages as error:
            assert (error.wanted, error.free) == (wanted, free) and wanted > free
            assert str(error) == f"{op}: wanted {wanted} pages, {free} free"
            assert dump(self.forest, list(self.nodes)) == before
            return None
        assert wanted <= free
        return () if result is None else result

    def add_model_node(self, node, **fields):
        assert node not in self.ever
        self.ever.add(node)
        self.nodes[node] = ModelNode(**fields)

    # Too many empty roots would crowd out the nodes worth testing.
    @precondition(lambda self: len(self.nodes) < 4)
    @rule(count=st.integers(0, 2))
    def add_roots(self, count):
        roots = self.call("add_roots", 0, 0, count)
        assert roots.dtype == np.int32 and roots.shape == (count,)
        for root in roots.tolist():
            self.add_model_node(root, tags=[], parent=-1, base=0)

    @rule()
    def reserve(self):
        self.grow("reserve", self.pick_nodes(parents=[False]))

    @rule()
    def append(self):
        self.grow("append", self.pick_nodes(parents=[False]))

    def grow(self, op, nodes):
        most = self.rng.choice([2, self.page_size + 1, 3 * self.page_size])
        counts = [self.rng.randint(0, most) for _ in nodes]
        sizes = [
            max(self.nodes[n].num_pages, self.ceil_pages(len(self.nodes[n].tags) - self.nodes[n].base + c))
            for n, c in zip(nodes, counts, strict=True)
        ]
        wanted = sum(sizes) - sum(self.nodes[n].num_pages for n in nodes)
        slots = self.call(op, wanted, self.free, nodes, counts)
        if slots is None:
            return
        for node, size in zip(nodes, sizes, strict=True):
            self.nodes[node].num_pages = size
        if op == "append":
            self.write_tags(slots, nodes, counts)

    def write_tags(self, slots, nodes, counts):
        assert slots.dtype == np.int32 and slots.shape == (sum(counts),)
        slots = iter(slots.tolist())
        for node, count in zip(nodes, counts, strict=True):
            for _ in range(count):
                self.num_tags += 1
                self.nodes[node].tags.append(self.num_tags)
                self.pool[next(slots)] = self.num_tags

    @rule(keep=st.booleans())
    def fork(self, keep):
        nodes = self.pick_nodes()
        widths = [self.rng.randint(1, 3) for _ in nodes]
        partial = [len(self.nodes[n].tags) % self.page_size > 0 for n in nodes]
        wanted = sum((w if keep else w - 1) * p for w, p in zip(widths, partial, strict=True))
        used = [self.ceil_pages(len(self.nodes[n].tags) - self.nodes[n].base) for n in nodes]
        tables = [self.forest.page_table(n).tolist() for n in nodes]
        given_back = keep * sum(self.nodes[n].num_pages - u for n, u in zip(nodes, used, strict=True))
        result = self.call("fork", wanted, self.free + given_back, nodes, widths, keep)
        if result is None:
            return
        children, src, dst = (x.tolist() for x in result)
        assert len(src) == len(dst) == wanted and len(children) == sum(widths)
        assert len(set(dst)) == len(dst) and not set(src) & set(dst)
        pages = self.pool.reshape(-1, self.page_size)
        pages[dst] = pages[src]
        for node, width, size, table in zip(nodes, widths, used, tables, strict=True):
            own_children = [children.pop(0) for _ in range(width)]
            self.model_fork(node, own_children, keep, size)
            assert keep or self.forest.page_table(own_children[-1]).tolist() == table
        self.grow("append", self.rng.sample(result[0].tolist(), min(3, sum(widths))))

    def model_fork(self, node, children, keep, used):
        parent = self.nodes[node]
        base = len(parent.tags) // self.page_size * self.page_size
        shared = (base - parent.base) // self.page_size
        for child in children:
            copied = int(len(parent.tags) > base)
            self.add_model_node(child, tags=list(parent.tags), parent=node, base=base, num_pages=copied)
        if keep:
            parent.num_pages = used
        else:
            self.nodes[children[-1]].num_pages = parent.num_pages - shared
            parent.num_pages, parent.held = shared, False

    @rule()
    def release(self):
        nodes = self.pick_nodes(self.rng.choice([[False], [True], [True, False]]))
        self.call("release", 0, 0, nodes)
        for node in nodes:
            model = self.nodes[node]
            model.held = False
            model.num_pages = (len(model.tags) // self.page_size * self.page_size - model.base) // self.page_size
        self.drop_dead()

    def drop_dead(self):
        parents = {model.parent for model in self.nodes.values()}
        dead = [n for n, model in self.nodes.items() if not model.held and n not in parents]
        for node in dead:
            del self.nodes[node]
        if dead:
            self.drop_dead()

    @precondition(lambda self: self.ever)
    @rule(op=st.sampled_from(["reserve", "append", "fork", "release"]))
    def refuse(self, op):
        good = self.pick_nodes(parents=[False])
        unusable = [n for n in self.ever if n not in self.nodes or not self.nodes[n].held] + [max(self.ever) + 1, -1]
        if op in ("reserve", "append"):
            unusable += self.held_nodes(parents=True)
        bad = self.rng.choice(unusable + good)
        args = [[*good, bad]] + ([] if op == "release" else [[1] * (len(good) + 1)])
        before = dump(self.forest, list(self.nodes))
        with pytest.raises(ValueError, match=rf"^{op}: nodes\[{len(good)}\] = {bad} "):
            getattr(self.forest, op)(*args)
        assert dump(self.forest, list(self.nodes)) == before

    @invariant()
    def forest_agrees(self):
        forest = self.forest
        forest.check()
        assert (forest.num_nodes, forest.free_pages) == (len(self.nodes), self.free)
        self.peak = max(self.peak, forest.num_pages - self.free)
        assert forest.peak_pages == self.peak
        widths = Counter(model.parent for model in self.nodes.values())
        for node, model in self.nodes.items():
            assert forest.length([node]).tolist() == [len(model.tags)]
            assert (forest.parent(node), forest.base(node)) == (model.parent, model.base)
            assert (forest.is_held(node), forest.num_children(node)) == (model.held, widths[node])

    @invariant()
    def paths_read_back(self):
        tables = {node: self.forest.page_table(node) for node in self.nodes}
        readable = np.zeros(self.forest.num_pages, bool)
        for table in tables.values():
            readable[table] = True
        self.pool.reshape(-1, self.page_size)[~readable] = POISON
        for node, table in tables.items():
            tags = self.nodes[node].tags
            if not self.nodes[node].held:
                tags = tags[: len(tags) // self.page_size * self.page_size]
            assert len(table) == self.ceil_pages(len(tags))
            assert self.pool.reshape(-1, self.page_size)[table].ravel()[: len(tags)].tolist() == tags


ForestMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
test_against_model = ForestMachine.TestCase
