"""A plain model of forests: every path is a list of tags, appends write tags into memory and forks copy pages."""

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import pytest
from host_helpers import dump

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


@dataclass
class Memory:
    """What all forests share. cells: [frames, tokens] the tags that are stored."""

    cells: np.ndarray
    forests: list = field(default_factory=list)
    num_tags: int = 0
    peak: int = 0

    @property
    def used(self):
        return sum(forest.used for forest in self.forests)

    @property
    def free(self):
        return len(self.cells) - self.used

    def check(self):
        """Every path reads back, from frames that no other forest uses. Frames that nobody reads are poisoned."""
        self.peak = max(self.peak, self.used)
        readable = Counter(frame for forest in self.forests for frame in forest.check())
        assert set(readable.values()) <= {1}
        self.cells[sorted(set(range(len(self.cells))) - set(readable))] = POISON
        for forest in self.forests:
            forest.read_back()


class ForestModel:
    def __init__(self, forest, memory, rng):
        self.forest = forest
        self.memory = memory
        self.rng = rng
        self.page_size = forest.page_size
        self.nodes = {}
        self.ever = set()
        self.peak = 0
        memory.forests.append(self)

    def ceil_pages(self, tokens):
        return -(-tokens // self.page_size)

    @property
    def used(self):
        return sum(node.num_pages for node in self.nodes.values())

    def own_tokens(self, node):
        """Those that are not a copy of the parent's."""
        model = self.nodes[node]
        return len(model.tags) - (len(self.nodes[model.parent].tags) if model.parent >= 0 else 0)

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

    def add_roots(self, count):
        roots = self.call("add_roots", 0, 0, count)
        assert roots.dtype == np.int32 and roots.shape == (count,)
        for root in roots.tolist():
            self.add_model_node(root, tags=[], parent=-1, base=0)

    def grow(self, op, nodes):
        """Append to the nodes, or reserve pages for them."""
        most = self.rng.choice([2, self.page_size + 1, 3 * self.page_size])
        counts = [self.rng.randint(0, most) for _ in nodes]
        sizes = [
            max(self.nodes[n].num_pages, self.ceil_pages(len(self.nodes[n].tags) - self.nodes[n].base + c))
            for n, c in zip(nodes, counts, strict=True)
        ]
        wanted = sum(sizes) - sum(self.nodes[n].num_pages for n in nodes)
        slots = self.call(op, wanted, self.memory.free, nodes, counts)
        if slots is None:
            return
        for node, size in zip(nodes, sizes, strict=True):
            self.nodes[node].num_pages = size
        if op == "append":
            self.write_tags(slots, nodes, counts)

    def write_tags(self, slots, nodes, counts):
        assert slots.dtype == np.int32 and slots.shape == (sum(counts),)
        pages, offsets = np.divmod(slots, self.page_size)
        cells = iter(zip(self.frames(pages), offsets, strict=True))
        for node, count in zip(nodes, counts, strict=True):
            for _ in range(count):
                self.memory.num_tags += 1
                self.nodes[node].tags.append(self.memory.num_tags)
                self.memory.cells[next(cells)] = self.memory.num_tags

    def frames(self, pages):
        frames, rest = np.divmod(np.asarray(pages, np.int32), self.forest.page_stride)
        assert not rest.any()
        return frames

    def truncate(self, nodes):
        counts = [self.rng.choice([0, self.own_tokens(n), self.rng.randint(0, self.own_tokens(n))]) for n in nodes]
        self.call("truncate", 0, 0, nodes, counts)
        for node, count in zip(nodes, counts, strict=True):
            model = self.nodes[node]
            model.tags = model.tags[: len(model.tags) - count]
            model.num_pages = self.ceil_pages(len(model.tags) - model.base)

    def fork(self, keep):
        nodes = self.pick_nodes()
        widths = [self.rng.randint(1, 3) for _ in nodes]
        partial = [len(self.nodes[n].tags) % self.page_size > 0 for n in nodes]
        wanted = sum((w if keep else w - 1) * p for w, p in zip(widths, partial, strict=True))
        used = [self.ceil_pages(len(self.nodes[n].tags) - self.nodes[n].base) for n in nodes]
        tables = [self.forest.page_table(n).tolist() for n in nodes]
        given_back = keep * sum(self.nodes[n].num_pages - u for n, u in zip(nodes, used, strict=True))
        result = self.call("fork", wanted, self.memory.free + given_back, nodes, widths, keep)
        if result is None:
            return
        children, src, dst = (x.tolist() for x in result)
        assert len(src) == len(dst) == wanted and len(children) == sum(widths)
        assert len(set(dst)) == len(dst) and not set(src) & set(dst)
        self.memory.cells[self.frames(dst)] = self.memory.cells[self.frames(src)]
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
            self.settle()

    def release(self, nodes):
        self.call("release", 0, 0, nodes)
        for node in nodes:
            model = self.nodes[node]
            model.held = False
            model.num_pages = (len(model.tags) // self.page_size * self.page_size - model.base) // self.page_size
        self.settle()

    def settle(self):
        """Nodes that nobody holds go when they have no children, and are their child's own when they have one."""
        children = {node: [n for n, model in self.nodes.items() if model.parent == node] for node in self.nodes}
        idle = [n for n, model in self.nodes.items() if not model.held and len(children[n]) < 2]
        if not idle:
            return
        gone = self.nodes.pop(idle[0])
        for child in children[idle[0]]:
            model = self.nodes[child]
            model.parent, model.base, model.num_pages = gone.parent, gone.base, gone.num_pages + model.num_pages
        self.settle()

    def refuse_node(self, op):
        """A node that may not be changed so, behind some that may."""
        good = self.pick_nodes(parents=[False])
        unusable = [n for n in self.ever if n not in self.nodes or not self.nodes[n].held] + [max(self.ever) + 1, -1]
        if op in ("reserve", "append", "truncate"):
            unusable += self.held_nodes(parents=True)
        bad = self.rng.choice(unusable + good)
        count = [] if op == "release" else [[int(op != "truncate")] * (len(good) + 1)]
        self.refuse(op, rf"^{op}: nodes\[{len(good)}\] = {bad} ", [*good, bad], *count)

    def refuse_count(self, op):
        """A count below what there can be or, to take back, above, behind counts that are fine."""
        nodes = self.pick_nodes(parents=[False])
        if not nodes:
            return
        last, own = len(nodes) - 1, self.own_tokens(nodes[-1])
        bad = own + 1 if op == "truncate" and self.rng.random() < 0.7 else -self.rng.choice([1, 2**31])
        wanted = f">= 0, got {bad}" if bad < 0 else f"at most the node's own {own} tokens, got {bad}"
        self.refuse(op, rf"^{op}: counts\[{last}\] must be {wanted}$", nodes, [0] * last + [bad])

    def refuse(self, op, text, *args):
        before = dump(self.forest, list(self.nodes))
        with pytest.raises(ValueError, match=text):
            getattr(self.forest, op)(*args)
        assert dump(self.forest, list(self.nodes)) == before

    def check(self):
        """Everything but what the paths hold. Returns the frames of all paths."""
        forest = self.forest
        forest.check()
        assert (forest.num_nodes, forest.used_pages, forest.free_pages) == (
            len(self.nodes),
            self.used,
            self.memory.free,
        )
        self.peak = max(self.peak, self.used)
        assert forest.peak_pages == self.peak
        widths = Counter(model.parent for model in self.nodes.values())
        for node, model in self.nodes.items():
            assert forest.length([node]).tolist() == [len(model.tags)]
            assert (forest.parent(node), forest.base(node)) == (model.parent, model.base)
            assert (forest.is_held(node), forest.num_children(node)) == (model.held, widths[node])
        return {frame for node in self.nodes for frame in self.frames(forest.page_table(node)).tolist()}

    def read_back(self):
        for node, model in self.nodes.items():
            table = self.forest.page_table(node)
            tags = model.tags if model.held else model.tags[: len(model.tags) // self.page_size * self.page_size]
            assert len(table) == self.ceil_pages(len(tags))
            assert self.memory.cells[self.frames(table), : self.page_size].ravel()[: len(tags)].tolist() == tags
