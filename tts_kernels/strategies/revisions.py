"""Sequential revisions beside parallel samples (Snell et al. 2408.03314, section 6 and appendix I)."""

from __future__ import annotations

from collections.abc import Sequence

from tts_kernels._checks import expect
from tts_kernels.strategies.base import Decision, Play, Strategy, root_divisor
from tts_kernels.tree import Node, SearchTree


class Revisions(Strategy):
    """``budget / sequential`` chains of ``sequential`` solutions each; every solution is written behind the last
    ``window`` ones of its chain.

    sequential: by default about the square root of the budget, the neutral ratio of the paper. between: tokens that
    ask for a revision, put behind every solution; "question" repeats the prompt there; a policy that was trained to go
    on by itself needs none.
    While a chain is no longer than the window the revision continues the path, and nothing is read twice; behind that
    the last solutions are read again. Choose with ``select="hierarchical"`` or "majority".
    """

    name = "revisions"
    revises = True

    def __init__(
        self, budget: int, sequential: int | None = None, window: int = 4, between: Sequence[int] | str = ()
    ) -> None:
        super().__init__(budget)
        sequential = root_divisor(budget) if sequential is None else sequential
        if not isinstance(sequential, int) or sequential < 1 or budget % sequential:
            raise ValueError(f"revisions: sequential must divide the budget of {budget}, got {sequential}")
        expect(self.name, isinstance(window, int) and window >= 1, "window", "at least 1", window)
        if between != "question" and (isinstance(between, str) or not all(isinstance(each, int) for each in between)):
            raise ValueError(f"revisions: between must be token ids or 'question', got {between!r}")
        self.sequential, self.window, self.between = sequential, window, between

    def play(self, tree: SearchTree) -> Play:
        begin = len(tree.nodes)
        yield Decision(expand=[(tree.root, self.missing(tree) // self.sequential)], whole=True, keep=True)
        chains = [[node] for node in tree.nodes[begin:]]
        for _ in range(self.sequential - 1):
            begin = len(tree.nodes)
            texts = [self.context(tree, chain) for chain in chains]
            if any(texts):
                yield Decision(given=[text for text in texts if text is not None])
            given = iter(tree.nodes[begin:])
            behind = [chain[-1] if text is None else next(given) for chain, text in zip(chains, texts, strict=True)]
            begin = len(tree.nodes)
            yield Decision(expand=[(node, 1) for node in behind], whole=True)
            written = {node.parent: node for node in tree.nodes[begin:]}
            for place, (chain, node) in enumerate(zip(chains, behind, strict=True)):
                chain.append(written[node.id])
                chain[0].chain = chain[-1].chain = place

    def context(self, tree: SearchTree, chain: list[Node]) -> tuple[Node, list[int]] | None:
        """What is to be handed in before the next solution of a chain, and where; None where it just goes on."""
        between = tree.root.tokens if isinstance(self.between, str) else list(self.between)
        longest = max(node.end - node.origin for node in chain)
        if len(chain) <= self.window and chain[-1].end + len(between) + longest < tree.max_length:
            return (chain[-1], between) if between else None
        tokens: list[int] = []
        for node in reversed(chain[-self.window :]):
            more = tree.solution(node) + between + tokens
            # However long the solutions are, the last one is there.
            if tokens and tree.root.end + len(more) + longest >= tree.max_length:
                break
            tokens = more
        room = tree.max_length - tree.root.end
        if len(tokens) >= room:
            # Of one that leaves no room for another, its end.
            tokens = tokens[-max(1, room // 2) :]
        return tree.root, tokens
