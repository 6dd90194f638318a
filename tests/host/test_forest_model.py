"""Forests against a plain model of them: one with pages of its own, and two that share frames."""

import random

import numpy as np
from forest_model import POISON, ForestModel, Memory
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tts_kernels import _ext

host = _ext.host()
# Page sizes and strides that differ, and both the same.
SHARED = [((1, 4), (16, 1)), ((4, 3), (16, 5)), ((5, 2), (4, 7)), ((4, 1), (4, 1))]


class ForestMachine(RuleBasedStateMachine):
    # Hypothesis chooses the rules; arguments drawn by it come out small, and deep trees hardly ever.
    @initialize(seed=st.integers(0, 2**32 - 1))
    def start(self, seed):
        self.rng = rng = random.Random(seed)
        num_pages = rng.randint(4, 80)
        forests = self.make_forests(num_pages)
        self.memory = Memory(np.full((num_pages, max(forest.page_size for forest in forests)), POISON))
        for forest in forests:
            model = ForestModel(forest, self.memory, rng)
            model.add_roots(2)
            model.grow("append", [0, 1])

    def make_forests(self, num_pages):
        return [host.Forest(num_pages, self.rng.choice([1, 4, 16]))]

    def pick(self):
        return self.rng.choice(self.memory.forests)

    # Too many empty roots would crowd out the nodes worth testing.
    @precondition(lambda self: any(len(model.nodes) < 4 for model in self.memory.forests))
    @rule(count=st.integers(0, 2))
    def add_roots(self, count):
        self.rng.choice([model for model in self.memory.forests if len(model.nodes) < 4]).add_roots(count)

    @rule(op=st.sampled_from(["reserve", "append", "append"]))
    def grow(self, op):
        model = self.pick()
        model.grow(op, model.pick_nodes(parents=[False]))

    @rule()
    def truncate(self):
        model = self.pick()
        model.truncate(model.pick_nodes(parents=[False]))

    @rule(keep=st.booleans())
    def fork(self, keep):
        self.pick().fork(keep)

    @rule()
    def release(self):
        model = self.pick()
        model.release(model.pick_nodes(self.rng.choice([[False], [True], [True, False]])))

    @rule(op=st.sampled_from(["reserve", "append", "fork", "release", "truncate"]))
    def refuse_node(self, op):
        self.pick().refuse_node(op)

    @rule(op=st.sampled_from(["reserve", "append", "truncate"]))
    def refuse_count(self, op):
        self.pick().refuse_count(op)

    @invariant()
    def agrees(self):
        self.memory.check()


class SharedFramesMachine(ForestMachine):
    def make_forests(self, num_pages):
        self.frames = host.Frames(num_pages)
        return [host.Forest(self.frames, *sizes) for sizes in self.rng.choice(SHARED)]

    @invariant()
    def agrees(self):
        super().agrees()
        frames, memory = self.frames, self.memory
        assert (frames.count, frames.num_free, frames.peak) == (len(memory.cells), memory.free, memory.peak)


class TestOneForest(ForestMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class TestTwoForestsInSharedFrames(SharedFramesMachine.TestCase):
    settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
