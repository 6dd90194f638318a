"""Random search trees, random plans over them, and what attention over them must give.

Nothing here goes through the planner: runs, units and joins are drawn at random within the contract of ``Plan``, and
the oracle knows paths only. Whatever may not be read is NaN, whatever index may not be followed is out of range.
"""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor

from tts_kernels.plan import Plan
from tts_kernels.testing.inputs import POISON_INDEX, peaky


@dataclass(frozen=True)
class Shape:
    """Sizes of a random case: nodes of up to node_tokens tokens, of which up to row_tokens have rows; full: just so."""

    nodes: int = 16
    node_tokens: int = 40
    row_tokens: int = 2
    full: bool = False
    q_heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    page_size: int = 16
    tile_rows: int = 8
    layers: int = 3


@dataclass(frozen=True)
class Node:
    """Tokens at path positions base .. base+length-1 and the rows [row_begin, row_end) at or below the node."""

    path: tuple[int, ...]
    base: int
    length: int
    leaf: bool
    row_begin: int
    row_end: int


@dataclass(frozen=True)
class Run:
    """Tokens [begin, end) of a node, of which a leaf's may reach behind what is written."""

    node: int
    begin: int
    end: int


@dataclass(frozen=True)
class Case:
    """Arguments of ``tree_attention`` and, in ``keys`` and ``values`` [tokens, Hkv, D] per node, what they mean."""

    q: Tensor
    k_pages: Tensor
    v_pages: Tensor
    plan: Plan
    nodes: list[Node]
    rows: list[tuple[int, int]]
    keys: list[Tensor]
    values: list[Tensor]

    def oracle(self, scale: float | None = None, softcap: float = 0.0, window: int = 0) -> tuple[Tensor, Tensor]:
        """out [N, Hq, D] and lse [N, Hq] in float64 from each row's path, the plan unseen."""
        out = torch.zeros_like(self.q, dtype=torch.float64)
        lse = out.new_full(out.shape[:2], -torch.inf)
        for row, (node, pos) in enumerate(self.rows):
            seen = slice(max(0, pos - window + 1) if window else 0, pos + 1)
            k, v = (torch.cat([kv[n] for n in self.nodes[node].path])[seen].double() for kv in (self.keys, self.values))
            group = self.q.shape[1] // k.shape[1]
            k, v = k.repeat_interleave(group, dim=1), v.repeat_interleave(group, dim=1)
            scores = (self.q[row].double() * k).sum(-1) * (self.q.shape[-1] ** -0.5 if scale is None else scale)
            scores = softcap * torch.tanh(scores / softcap) if softcap else scores
            lse[row] = torch.logsumexp(scores, dim=0)
            out[row] = (torch.softmax(scores, dim=0)[..., None] * v).sum(0)
        return out, lse


def random_case(shape: Shape, dtype: torch.dtype, device: torch.device | str, seed: int = 0) -> Case:
    """A forest with rows at all leaves and some inner nodes; one row is blind: its position is -1."""
    rng, generator = Random(seed), torch.Generator().manual_seed(seed)
    nodes, rows = random_forest(shape, rng)
    data = (shape.kv_heads, shape.head_dim)
    keys, values = ([peaky(n.length, *data, generator=generator, dtype=dtype) for n in nodes] for _ in "kv")
    node_pages, num_pages = random_pages(nodes, shape.page_size, rng)
    k_pages, v_pages = (fill_pages(kv, node_pages, num_pages, shape.page_size) for kv in (keys, values))
    q = peaky(len(rows), shape.q_heads, shape.head_dim, generator=generator, dtype=dtype)
    plan = random_plan(nodes, rows, node_pages, shape, rng, device)
    q, k_pages, v_pages = q.to(device), k_pages.to(device), v_pages.to(device)
    return Case(q, k_pages, v_pages, plan, nodes, rows, [k.to(device) for k in keys], [v.to(device) for v in values])


def random_forest(shape: Shape, rng: Random) -> tuple[list[Node], list[tuple[int, int]]]:
    """Nodes in depth-first order and rows (node, path position) in the order of their nodes."""
    parents = [-1]
    for node in range(1, shape.nodes):
        parents.append(-1 if rng.random() < 0.1 else rng.choice((node - 1, rng.randrange(node))))
    children: list[list[int]] = [[i for i, p in enumerate(parents) if p == node] for node in range(shape.nodes)]
    nodes: list[Node] = []
    rows: list[tuple[int, int]] = []

    def visit(node: int, path: tuple[int, ...], base: int) -> None:
        number, row_begin = len(nodes), len(rows)
        length = shape.node_tokens if shape.full else rng.randint(1, shape.node_tokens)
        nodes.append(Node((*path, number), base, length, not children[node], row_begin, 0))
        if not children[node] or rng.random() < 0.2:
            count = shape.row_tokens if shape.full else min(length, rng.randint(1, shape.row_tokens))
            rows.extend((number, base + length - count + i) for i in range(count))
        for child in children[node]:
            visit(child, (*path, number), base + length)
        nodes[number] = Node((*path, number), base, length, not children[node], row_begin, len(rows))

    for node, parent in enumerate(parents):
        if parent == -1:
            visit(node, (), 0)
    if len(rows) > 2:
        blind = rng.randrange(len(rows))
        rows[blind] = (rows[blind][0], -1)
    return nodes, rows


def random_pages(nodes: list[Node], page_size: int, rng: Random) -> tuple[list[list[int]], int]:
    """Page ids per node, shuffled over a pool in which a third of the pages belongs to nobody."""
    counts = [-(-n.length // page_size) for n in nodes]
    num_pages = sum(counts) * 3 // 2 + 1
    ids = rng.sample(range(num_pages), sum(counts))
    return [[ids.pop() for _ in range(count)] for count in counts], num_pages


def fill_pages(tokens: list[Tensor], node_pages: list[list[int]], num_pages: int, page_size: int) -> Tensor:
    """[pages, Hkv, page_size, D]: each node's tokens in its pages, NaN everywhere else."""
    pages = tokens[0].new_full((num_pages, tokens[0].shape[1], page_size, tokens[0].shape[2]), torch.nan)
    for node_tokens, ids in zip(tokens, node_pages, strict=True):
        for page, part in zip(ids, node_tokens.split(page_size), strict=True):
            pages[page, :, : len(part)] = part.transpose(0, 1)
    return pages


def random_runs(node: int, nodes: list[Node], page_size: int, rng: Random) -> list[Run]:
    """The node's tokens cut at random page edges; a leaf's last run goes on into tokens that do not exist yet."""
    length = nodes[node].length
    edges = [e for e in range(page_size, length, page_size) if rng.random() < 0.3]
    end = length + rng.choice((0, 1, 3 * page_size)) if nodes[node].leaf else length
    return [Run(node, begin, stop) for begin, stop in zip([0, *edges], [*edges, end], strict=True)]


def random_plan(
    nodes: list[Node],
    rows: list[tuple[int, int]],
    node_pages: list[list[int]],
    shape: Shape,
    rng: Random,
    device: torch.device | str,
) -> Plan:
    """Every run goes to one of several layers; each layer cuts the rows into tiles of its own, a unit per tile."""
    layers: list[list[Run]] = [[] for _ in range(shape.layers)]
    for node in range(len(nodes)):
        for run in random_runs(node, nodes, shape.page_size, rng):
            rng.choice(layers).append(run)
    units: list[tuple[int, int, list[tuple[int, int, Run]]]] = []
    for layer in layers:
        begin = 0
        while begin < len(rows):
            end = min(len(rows), begin + rng.randint(max(1, shape.tile_rows // 2), shape.tile_rows))
            cut = [(max(begin, nodes[r.node].row_begin), min(end, nodes[r.node].row_end), r) for r in layer]
            cut = [(low, high, r) for low, high, r in cut if low < high]
            if cut:
                cut.sort(key=lambda run: nodes[run[2].node].base + run[2].begin)
                units.append((min(low for low, _, _ in cut), max(high for _, high, _ in cut), cut))
            begin = end
    rng.shuffle(units)
    return _layout(nodes, rows, node_pages, units, shape.page_size, rng, device)


def _layout(
    nodes: list[Node],
    rows: list[tuple[int, int]],
    node_pages: list[list[int]],
    units: list[tuple[int, int, list[tuple[int, int, Run]]]],
    page_size: int,
    rng: Random,
    device: torch.device | str,
) -> Plan:
    readers: list[list[tuple[int, bool]]] = [[] for _ in rows]
    for number, (begin, end, cut) in enumerate(units):
        for row in range(begin, end):
            readers[row].append((number, any(low <= row < high for low, high, _ in cut)))
    joined = [len(units_of_row) > 1 or rng.random() < 0.2 for units_of_row in readers]
    unit_rows: list[tuple[int, ...]] = []
    run_rows: list[tuple[int, ...]] = []
    pages, slots = [POISON_INDEX], 0
    for begin, end, cut in units:
        first_run = len(run_rows)
        for low, high, run in cut:
            run_rows.append((low, high, len(pages), nodes[run.node].base + run.begin, run.end - run.begin))
            ids = node_pages[run.node][run.begin // page_size : -(-run.end // page_size)]
            missing = -(-run.end // page_size) - run.begin // page_size - len(ids)
            pages += [*ids, *[POISON_INDEX] * (missing + rng.randint(0, 2))]
        any_joined = any(joined[begin:end])
        slots += rng.randint(0, 2)
        unit_rows.append((begin, end, first_run, len(run_rows), slots if any_joined else -1))
        slots += end - begin if any_joined else 0
    join_ptr, join_slots = [0], []
    for row, units_of_row in enumerate(readers):
        if joined[row]:
            # A unit that spans the row without a run for it leaves an empty part: joining it must change nothing.
            parts = [unit_rows[u] for u, reads in units_of_row if reads or rng.random() < 0.5]
            join_slots += [part[4] + row - part[0] for part in rng.sample(parts, len(parts))]
        join_ptr.append(len(join_slots))

    def tensor(values: list, columns: int = 0) -> Tensor:
        flat = torch.tensor(values, dtype=torch.int32, device=device)
        return flat.reshape(-1, columns) if columns else flat

    return Plan(
        units=tensor(unit_rows, 5),
        runs=tensor(run_rows, 5),
        pages=tensor(pages),
        row_pos=tensor([pos for _, pos in rows]),
        join_ptr=tensor(join_ptr),
        join_slots=tensor(join_slots),
        num_slots=slots,
        num_rows=len(rows),
        page_size=page_size,
        host=None,
    )
