"""Beam search over steps against a process reward model (Snell et al. 2408.03314, section 5.1)."""

from __future__ import annotations

from tts_kernels._checks import expect
from tts_kernels.strategies.base import Allocation, Decision, Play, Rounds, root_divisor
from tts_kernels.tree import Node, SearchTree


class Beam(Rounds):
    """Sample ``budget`` first steps, keep the best budget / width by score, give each ``width`` children, repeat.

    A path that ends leaves the beam and takes its share along: with C solutions complete, budget - C children are
    sampled from the ceil((budget - C) / width) best open nodes, so a search produces ``budget`` solutions. The paper
    does not say what becomes of early finishers; this is the rule of REBASE (Wu et al. 2408.00724, section 3.2).
    width: "sqrt" for about the square root of the budget, the paper's other setting.
    """

    name = "beam"

    def __init__(self, budget: int, width: int | str = 4, max_depth: int = 40) -> None:
        super().__init__(budget, max_depth)
        if width == "sqrt":
            width = root_divisor(budget)
        if not isinstance(width, int) or width < 1:
            raise ValueError(f"{self.name}: width must be at least 1 or 'sqrt', got {width!r}")
        expect(self.name, budget % width == 0, "budget", f"a multiple of width {width}", budget)
        self.width = width

    def share(self, tree: SearchTree, candidates: list[Node], budget: int) -> Play:
        yield Decision(share=[Allocation(candidates, -(-budget // self.width), budget)])
