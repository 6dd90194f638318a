"""Who reads which pages in one model call: the arrays that the attention kernels are launched with."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tts_kernels import _ext
from tts_kernels.processors import AttentionShape, Processor, costs_of, processor_of

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    import tts_kernels._host as _host

# Stands in ``Plan.pages`` for pages that a leaf will only get as it grows.
POISON_PAGE = 2**31 - 1
TENSORS = ("units", "runs", "pages", "row_pos", "join_ptr", "join_slots", "reads", "unit_reads")


@dataclass(frozen=True, eq=False)
class Plan:
    """Work units over rows and runs. All tensors are int32, contiguous, on one device; N rows.

    A row may attend to the keys at path positions ``max(0, row_pos[r] - window + 1) .. row_pos[r]`` of the runs that
    name it, and to nothing else. That one rule is causal order, the leaf's current tail and the window.

    - ``units`` [U, 5]: row_begin, row_end, run_begin, run_end, part_begin. A tile of rows and its list of runs. Every
      row of the unit has at least one of them, in ascending path position.
    - ``runs`` [R, 5]: row_begin, row_end, page_begin, base, length. The rows (absolute, inside the unit's) read
      ``length`` tokens at path positions base .. base+length-1, stored in ``pages[page_begin:]``; the first token is
      at offset 0 of its page, and base and length are multiples of ``page_size``. The run of a row's own leaf is as
      long as the pages it may fill before the next plan: the keys behind row_pos are not there yet.
    - ``pages`` [*]: page ids; ``POISON_PAGE`` where a leaf's future page is not known yet.
    - ``row_pos`` [N]: path position of the row's query token.
    - ``join_ptr`` [N+1], ``join_slots`` [J]: row r's partial results are in slots
      ``join_slots[join_ptr[r]:join_ptr[r+1]]``, to be joined in this order. A row without entries is read by exactly
      one unit, which writes its result directly. Unit u puts its part of row r into slot
      ``part_begin + r - row_begin``; part_begin is -1 when none of its rows is joined.
    - ``num_slots``: partial results to make room for; slots of rows that are not joined stay unused.
    - ``reads`` [E, 4]: page, base, row_begin, row_end. The runs page by page, for kernels that fill a tile of keys with
      pages of several runs: ``pages[page]`` holds the keys at base .. base+page_size-1 for those rows. Within a unit in
      the order in which leaves grow into them. ``unit_reads`` [U, 2]: the unit's reads that hold a key already.
    - ``max_unit_rows``: most rows of a unit. ``invariant``: every row's partial results are cut at the same path
      positions whatever its company, so that kernels that treat all tiles alike give the same bits.

      Every unit that spans a joined row has its slot there; every row is in some unit.
    - ``workspaces``: memory that launchers keep for the plan's calls; two calls must not use a plan at the same time.

    In a run and in a read the last row has the largest ``row_pos``: no key behind that is there to be read.
    """

    units: Tensor
    runs: Tensor
    pages: Tensor
    row_pos: Tensor
    join_ptr: Tensor
    join_slots: Tensor
    num_slots: int
    num_rows: int
    page_size: int
    host: _host.Plan
    reads: Tensor = field(default_factory=lambda: torch.empty(0, 4, dtype=torch.int32))
    unit_reads: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.int32))
    max_unit_rows: int = 0
    invariant: bool = False
    workspaces: dict[Hashable, Any] = field(default_factory=dict, init=False)

    def workspace(self, q: Tensor, kv_heads: int) -> tuple[Tensor, Tensor, Tensor]:
        """What a GPU kernel needs for queries q [N, Hq, D], kept with the plan so that a graph can hold its addresses.

        Room for partial results [slots, Hq, D rounded up to 8] and their lse [slots, Hq], and counters [N, Hkv] of
        parts that are in, which every launch leaves at zero.
        """
        rows, heads, head_dim = q.shape
        key = ("tree_attention", rows, heads, kv_heads, head_dim, q.dtype)
        if key not in self.workspaces:
            self.workspaces[key] = (
                q.new_empty(self.num_slots, heads, -(-head_dim // 8) * 8),
                q.new_empty(self.num_slots, heads, dtype=torch.float32),
                q.new_zeros(rows, kv_heads, dtype=torch.int32),
            )
        return self.workspaces[key]

    def update(self, forest: _host.Forest) -> bool:
        """Follow appends to the plan's leaves: ``row_pos`` moves on, pages that came since are filled in.

        The tensors keep their addresses. Returns whether ``pages`` changed. Raises ValueError when the forest was
        forked or released from since the plan was made, or when a leaf outgrew the plan's ``growth``.
        """
        pages_changed = self.host.update(forest)
        # On the CPU the tensors are the host plan's own memory.
        if self.row_pos.device.type != "cpu":
            self.row_pos.copy_(torch.from_numpy(self.host.row_pos))
            self.unit_reads.copy_(torch.from_numpy(self.host.unit_reads))
            if pages_changed:
                self.pages.copy_(torch.from_numpy(self.host.pages))
        return pages_changed


def make_plan(
    forest: _host.Forest,
    leaves: ArrayLike,
    counts: ArrayLike,
    *,
    growth: int = 0,
    shape: AttentionShape = AttentionShape(),  # noqa: B008
    processor: Processor | None = None,
    tile_rows: int = 0,
    split_tokens: int = 0,
    invariant: bool = False,
    page_reads: bool | None = None,
    device: torch.device | str = "cpu",
) -> Plan:
    """Plan one model call in which leaf i has a row for each of its last ``counts[i]`` tokens, already appended.

    leaves: int [n], held nodes of ``forest``, no two the same. counts: int [n], 0 .. length of the leaf; a leaf with 0
    is left out. Rows are in the order given: any order is right, depth-first order shares every common run.
    growth: tokens that each leaf may gain by ``append`` before a new plan is needed; with 0, runs that lie behind all
    of a tile's rows (causal order) are left out.
    shape, processor: what the cost model reckons with; any plan is right for any shape. None: that of ``device``.
    tile_rows, split_tokens: most rows of a unit, and most tokens that a row reads in one; 0: as the cost model says.
    invariant: cut every path at multiples of ``split_tokens`` (rounded up; 256 when 0) and share whole splits only, so
    that a row's result has the same bits alone, with siblings, shared or not, and anywhere in the batch.
    page_reads: fill in ``reads``; None: where a kernel for ``device`` needs them.
    device: where the tensors go, the device of the caller's queries.
    """
    device = torch.device(device)
    on_cpu = device.type == "cpu"
    if page_reads is None:
        page_reads = _ext.runs_cuda_kernels(device) or _ext.why_not_triton(device.type) is None
    host = _ext.host().make_plan(
        forest, leaves, counts, growth=growth, tile_rows=tile_rows, split_tokens=split_tokens, invariant=invariant,
        page_reads=page_reads, costs=costs_of(processor or processor_of(device), shape, on_cpu),
    )  # fmt: skip
    tensors: dict[str, Any] = {name: torch.from_numpy(getattr(host, name)).to(device) for name in TENSORS}
    widths = host.units[:, 1] - host.units[:, 0]
    return Plan(
        **tensors, num_slots=host.num_slots, num_rows=host.num_rows, page_size=host.page_size, host=host,
        max_unit_rows=int(widths.max(initial=0)), invariant=invariant,
    )  # fmt: skip
