"""The search tree of one problem: nodes with tokens, scores and states. Token ids are the truth, text is only shown."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from hashlib import blake2b

_MASK = (1 << 64) - 1


@dataclass(frozen=True)
class Problem:
    """``prompt``: text, or token ids, as the policy reads it. ``answer``: the reference answer where known.

    ``question``: the bare problem, for reward models with a prompt of their own; by default the prompt's text.
    """

    id: str
    prompt: str | Sequence[int]
    answer: str | None = None
    question: str | None = None


class State(Enum):
    """What can become of a node."""

    GIVEN = "given"  # its tokens were handed in, nothing was drawn behind them yet
    OPEN = "open"  # its step is done, the solution is not
    EXPANDED = "expanded"  # it has children
    FINISHED = "finished"  # ended by an end-of-sequence token
    TRUNCATED = "truncated"  # ran into the token limit or the depth limit
    PRUNED = "pruned"  # released by the strategy


def root_key(seed: int, problem_id: str) -> int:
    """The 64-bit random key of a problem's root: a function of seed and problem id alone."""
    digest = blake2b(f"{seed}\0{problem_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little")


def child_key(key: int, index: int) -> int:
    """The key of child ``index``: the finaliser of SplitMix64 (Steele et al. 2014) over the parent's key."""
    z = (key + 0x9E3779B97F4A7C15 * (index + 1)) & _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)


@dataclass(eq=False)
class Node:
    """A run of tokens. ``path``: child indices from the root, which order nodes depth first.
    ``start``: path position of the first token; ``origin``: of the first token of the solution that it belongs to.

    ``step_ends``: how many of the node's tokens each of its steps takes, counted from the node's start.
    ``first_step``: how many steps its solution has before it.
    ``cut``: the last step was ended by a limit, not by a separator or an end-of-sequence token.
    ``score``: aggregate of all step scores of the solution up to here; ``num_steps`` how many those are.
    ``log_prob``: sum over the node's tokens of the model's log-probabilities.
    ``given``: its tokens were handed in. A solution begins behind such a node, and behind a finished one.

    A rollout is a chain of nodes drawn greedily behind a node, only to be scored: ``rollout`` marks its nodes,
    ``next_rollout`` is the id of the next one. ``foresight``: the score at the end of the node's rollout, by which it
    is then judged. ``twin``: the id of the rollout's node that has the very same steps. ``twin_keys``: keys of the
    nodes, there or still to come, whose twin this one is.

    ``answer``: of a complete solution, known where the strategy reads answers. Strategies may say: ``copies``, how
    often a solution counts in a vote; ``chain``, which chain of revisions it belongs to.
    """

    id: int
    parent: int
    path: tuple[int, ...]
    key: int
    start: int
    tokens: list[int] = field(default_factory=list)
    step_ends: list[int] = field(default_factory=list)
    step_scores: list[float] = field(default_factory=list)
    score: float = 0.0
    num_steps: int = 0
    log_prob: float = 0.0
    state: State = State.OPEN
    num_children: int = 0
    cut: bool = False
    origin: int = 0
    first_step: int = 0
    given: bool = False
    rollout: bool = False
    next_rollout: int | None = None
    foresight: float | None = None
    twin: int | None = None
    twin_keys: list[int] = field(default_factory=list)
    answer: str | None = None
    copies: int = 1
    chain: int | None = None

    @property
    def ended(self) -> bool:
        """Whether its solution is complete, or cut for good."""
        return self.state in (State.FINISHED, State.TRUNCATED)

    @property
    def worth(self) -> float:
        """The score that decides about the node."""
        return self.score if self.foresight is None else self.foresight

    @property
    def depth(self) -> int:
        return len(self.path)

    @property
    def end(self) -> int:
        """Path position behind the node's last token."""
        return self.start + len(self.tokens)


@dataclass
class SearchStats:
    """What one problem's search cost.

    ``generations``: how many steps were drawn at the place of a solution where most were, which is the number of
    solutions that best-of-N draws for the same. ``tokens``: drawn, those of pruned nodes and ``rollout_tokens``
    included; ``reused_tokens``: of nodes that took over a rollout's, not drawn. ``fed_tokens``: read by the policy,
    the prompt included; ``scorer_tokens``: by the reward model. FLOPs are 2 per parameter and token (Kaplan et al.
    2001.08361) and those of attention. ``kv_bytes``: keys and values made by both models, those of a shared prefix
    once. ``seconds``: from the moment the problem joined the others. ``wasted_tokens``: drawn ahead of the decision and
    of no use, charged to nobody. ``limited``: the search was ended by its limit.
    """

    generations: int = 0
    prompt_tokens: int = 0
    tokens: int = 0
    rollout_tokens: int = 0
    reused_tokens: int = 0
    wasted_tokens: int = 0
    fed_tokens: int = 0
    scorer_tokens: int = 0
    policy_flops: int = 0
    scorer_flops: int = 0
    kv_bytes: int = 0
    seconds: float = 0.0
    rounds: int = 0
    restarts: int = 0
    limited: bool = False


class SearchTree:
    """All nodes of one problem, the root holding the prompt. Owns its nodes: strategies read, the decoder writes.

    ``max_length``: most tokens of a path. ``max_depth``: most steps of a solution that grows step by step.
    """

    max_length = 2**31 - 1
    max_depth = 2**31 - 1

    def __init__(self, problem: Problem, prompt: list[int], seed: int) -> None:
        if not prompt:
            raise ValueError(f"SearchTree: the prompt of problem {problem.id!r} must have at least one token, got none")
        self.problem = problem
        self.seed = seed
        self.stats = SearchStats()
        self.nodes = [Node(0, -1, (), root_key(seed, problem.id), 0, list(prompt), given=True)]

    @property
    def problem_id(self) -> str:
        return self.problem.id

    @property
    def root(self) -> Node:
        return self.nodes[0]

    def new_child(self, parent: Node, index: int) -> Node:
        """An empty child that is not in the tree yet, see ``attach``."""
        child = Node(-1, parent.id, (*parent.path, index), child_key(parent.key, index), parent.end)
        if parent.given or parent.ended:
            child.origin = parent.end
        else:
            child.origin, child.first_step = parent.origin, parent.first_step + len(parent.step_ends)
            child.score, child.num_steps = parent.score, parent.num_steps
        return child

    def attach(self, child: Node) -> Node:
        """Put a new child behind its parent's others, or a rollout's node at the end of its chain."""
        parent = self.nodes[child.parent]
        child.id = len(self.nodes)
        if child.rollout:
            parent.next_rollout = child.id
        elif child.path[-1] != parent.num_children:
            raise RuntimeError(f"tree {self.problem_id}: node {parent.id} has {parent.num_children} children, not less")
        else:
            parent.num_children += 1
            if not parent.ended:
                parent.state = State.EXPANDED
        self.nodes.append(child)
        return child

    def add_children(self, parent: Node, width: int) -> list[Node]:
        """``width`` empty children, indexed after the ones that are there."""
        first = parent.num_children
        return [self.attach(self.new_child(parent, index)) for index in range(first, first + width)]

    def add_given(self, parent: Node, tokens: list[int]) -> Node:
        """A child whose tokens are handed in."""
        (child,) = self.add_children(parent, 1)
        child.tokens, child.given, child.state = list(tokens), True, State.GIVEN
        return child

    def rollout(self, node: Node) -> list[Node]:
        """The rollout behind a node, as far as it has come."""
        chain, last = [], node if node.twin is None else self.nodes[node.twin]
        while last.next_rollout is not None:
            last = self.nodes[last.next_rollout]
            chain.append(last)
        return chain

    def scored_behind(self, node: Node) -> Node:
        """The node whose scores this one's continue: its parent, or the root where a solution begins."""
        return self.root if node.start == node.origin else self.nodes[node.parent]

    def steps(self, node: Node) -> list[list[int]]:
        """The tokens of each of the node's steps."""
        begins = [0, *node.step_ends[:-1]]
        return [node.tokens[begin:end] for begin, end in zip(begins, node.step_ends, strict=True)]

    def lineage(self, node: Node) -> list[Node]:
        """The nodes from the root to ``node``, both included."""
        chain = [node]
        while chain[-1].parent >= 0:
            chain.append(self.nodes[chain[-1].parent])
        return chain[::-1]

    def solution(self, node: Node) -> list[int]:
        """The tokens of the node's solution so far, without the prompt."""
        return [token for part in self.solution_nodes(node) for token in part.tokens]

    def solution_nodes(self, node: Node) -> list[Node]:
        """The nodes from the one where the node's solution begins to ``node``, both included."""
        return [part for part in self.lineage(node) if part.start >= node.origin and not part.given]

    def in_state(self, *states: State) -> Iterator[Node]:
        """Nodes in any of ``states``, in order of creation. The root is open until it has children; rollouts are left
        out."""
        return (node for node in self.nodes if node.state in states and not node.rollout)

    def complete(self) -> Iterator[Node]:
        """The ends of all solutions that are complete or cut for good, in order of creation."""
        return self.in_state(State.FINISHED, State.TRUNCATED)

    def check(self) -> None:
        """Raise RuntimeError on the first inconsistency."""
        children = [0] * len(self.nodes)
        for index, node in enumerate(self.nodes):
            if node.id != index or (node.parent < 0) != (index == 0) or node.parent >= index:
                raise RuntimeError(f"tree {self.problem_id}: node {index} has id {node.id} and parent {node.parent}")
            if index:
                parent = self.nodes[node.parent]
                children[parent.id] += not node.rollout
                if node.path[:-1] != parent.path or node.key != child_key(parent.key, node.path[-1]):
                    raise RuntimeError(f"tree {self.problem_id}: node {index} does not continue its parent's path")
                if node.start != parent.end:
                    raise RuntimeError(f"tree {self.problem_id}: node {index} starts at {node.start}, not {parent.end}")
                before = self.scored_behind(node).num_steps
                if not node.given and node.num_steps != before + len(node.step_scores):
                    raise RuntimeError(f"tree {self.problem_id}: node {index} counts {node.num_steps} steps")
            if any(not 0 < end <= len(node.tokens) for end in node.step_ends):
                raise RuntimeError(f"tree {self.problem_id}: node {index} has step ends {node.step_ends}")
        for node, count in zip(self.nodes, children, strict=True):
            if node.num_children != count or (not node.ended and (node.state is State.EXPANDED) != (count > 0)):
                state = node.state.value
                raise RuntimeError(f"tree {self.problem_id}: node {node.id} is {state} with {count} children")
