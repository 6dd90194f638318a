"""Random plans over random search trees, and what attention over them must give.

Nothing here goes through the planner: runs, units and joins are drawn at random within the contract of ``Plan``, and
the oracle knows paths only. Whatever may not be read is NaN, whatever index may not be followed is out of range.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random
from typing import Any

import torch
from torch import Tensor

from tts_kernels.plan import Plan
from tts_kernels.testing.forests import Node, Shape, fill_pages, random_forest, random_pages, store_narrow
from tts_kernels.testing.inputs import POISON_INDEX, peaky


@dataclass(frozen=True)
class Run:
    """Tokens [begin, end) of a node, of which a leaf's may reach behind what is written."""

    node: int
    begin: int
    end: int


# A run and the rows that read it; a unit's rows and its runs.
Cut = tuple[int, int, Run]
Unit = tuple[int, int, list[Cut]]


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
    k_scales: Tensor | None = None
    v_scales: Tensor | None = None

    def oracle(
        self, scale: float | None = None, softcap: float = 0.0, window: int = 0, sinks: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
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
            with_sinks = scores if sinks is None else torch.cat([scores, sinks[None].double()])
            lse[row] = torch.logsumexp(with_sinks, dim=0)
            out[row] = (torch.exp(scores - lse[row])[..., None] * v).sum(0)
        return out, lse


def random_case(
    shape: Shape, dtype: torch.dtype, device: torch.device | str, seed: int = 0, stored: torch.dtype | None = None
) -> Case:
    """A forest with rows at all leaves and some inner nodes; one row is blind: its position is -1.

    stored: int8 or float8_e4m3fn for pages of that dtype with scales.
    """
    rng, generator = Random(seed), torch.Generator().manual_seed(seed)
    nodes, rows = random_forest(shape, rng)
    data = (shape.kv_heads, shape.head_dim)
    keys, values = ([peaky(n.length, *data, generator=generator, dtype=dtype) for n in nodes] for _ in "kv")
    node_pages, num_pages = random_pages(nodes, shape.page_size, rng)
    k_pages, v_pages = (fill_pages(kv, node_pages, num_pages, shape.page_size) for kv in (keys, values))
    k_scales: Tensor | None = None
    v_scales: Tensor | None = None
    if stored is not None:
        k_pages, k_scales, keys = store_narrow(k_pages, nodes, node_pages, stored)
        v_pages, v_scales, values = store_narrow(v_pages, nodes, node_pages, stored)
    q = peaky(len(rows), shape.q_heads, shape.head_dim, generator=generator, dtype=dtype)
    plan = random_plan(nodes, rows, node_pages, shape, rng, device)
    case = Case(q, k_pages, v_pages, plan, nodes, rows, keys, values, k_scales, v_scales)
    return replace(case, **{name: _to(value, device) for name, value in vars(case).items() if name != "plan"})


def _to(value: Any, device: torch.device | str) -> Any:
    """Tensors and lists of tensors on ``device``, other values as they are."""
    if isinstance(value, list):
        return [_to(item, device) for item in value]
    return value.to(device) if isinstance(value, Tensor) else value


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

    def seeing(cut: Cut) -> Cut:
        # The last row of a run sees all of its keys: a blind one is left out.
        low, high, run = cut
        return low, high - 1 if rows[high - 1][1] < 0 else high, run

    layers: list[list[Run]] = [[] for _ in range(shape.layers)]
    for node in range(len(nodes)):
        for run in random_runs(node, nodes, shape.page_size, rng):
            rng.choice(layers).append(run)
    units: list[Unit] = []
    for layer in layers:
        begin = 0
        while begin < len(rows):
            end = min(len(rows), begin + rng.randint(max(1, shape.tile_rows // 2), shape.tile_rows))
            cut = [(max(begin, nodes[r.node].row_begin), min(end, nodes[r.node].row_end), r) for r in layer]
            cut = [(low, high, r) for low, high, r in cut if low < high]
            if cut:
                cut.sort(key=lambda run: nodes[run[2].node].base + run[2].begin)
                span = min(low for low, _, _ in cut), max(high for _, high, _ in cut)
                units.append((*span, [run for run in map(seeing, cut) if run[0] < run[1]]))
            begin = end
    rng.shuffle(units)
    return _layout(nodes, rows, node_pages, units, shape.page_size, rng, device)


def _layout(
    nodes: list[Node],
    rows: list[tuple[int, int]],
    node_pages: list[list[int]],
    units: list[Unit],
    page_size: int,
    rng: Random,
    device: torch.device | str,
) -> Plan:
    readers = [[u for u, unit in enumerate(units) if unit[0] <= row < unit[1]] for row in range(len(rows))]
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
    join_ptr, join_slots = random_joins(readers, joined, unit_rows, rng)
    reads, unit_reads = random_reads(unit_rows, run_rows, rows, page_size, rng)

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
        reads=tensor(reads, 4),
        unit_reads=tensor(unit_reads, 2),
        max_unit_rows=max((end - begin for begin, end, _ in units), default=0),
    )


def random_joins(
    readers: list[list[int]], joined: list[bool], units: list[tuple[int, ...]], rng: Random
) -> tuple[list[int], list[int]]:
    """Each joined row's slots in all units that span it, in any order; of those without a run for it they are empty."""
    join_ptr, join_slots = [0], []
    for row, units_of_row in enumerate(readers):
        if joined[row]:
            slots = [units[u][4] + row - units[u][0] for u in units_of_row]
            join_slots += rng.sample(slots, len(slots))
        join_ptr.append(len(join_slots))
    return join_ptr, join_slots


def random_reads(
    units: list[tuple[int, ...]], runs: list[tuple[int, ...]], rows: list[tuple[int, int]], page_size: int, rng: Random
) -> tuple[list[tuple[int, ...]], list[tuple[int, int]]]:
    """The units' runs page by page in any order, pages without keys last and left out or not, poison in between."""
    reads: list[tuple[int, ...]] = []
    unit_reads: list[tuple[int, int]] = []
    for _, _, run_begin, run_end, _ in units:
        written: list[tuple[int, ...]] = []
        later: list[tuple[int, ...]] = []
        for low, high, page_begin, base, length in runs[run_begin:run_end]:
            for page in range(-(-length // page_size)):
                pos = base + page * page_size
                (written if pos <= rows[high - 1][1] else later).append((page_begin + page, pos, low, high))
        rng.shuffle(written)
        begin, end = len(reads), len(reads) + len(written) + rng.randint(0, len(later))
        reads += [*written, *later, *[(POISON_INDEX,) * 4] * rng.randint(0, 2)]
        unit_reads.append((begin, end))
    return reads, unit_reads
