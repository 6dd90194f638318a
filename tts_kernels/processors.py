"""What a plan's cost model must know of the processor that runs the plan, and of the attention that it is for.

The figures of the GPUs are those of their data sheets, derated where a comment says so; none was measured by us. To
calibrate a processor, time ``tree_attention`` on it with one long run (``memory_gb_s``), with one run that all
processors read out of the cache (``cache_gb_s``), with as many rows as a tile takes (``tflops``) and with many units of
one page (``unit_us``), and pass ``dataclasses.replace(PROCESSORS[...], ...)`` to ``make_plan``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from tts_kernels import _ext

if TYPE_CHECKING:
    import tts_kernels._host as _host


@dataclass(frozen=True)
class Processor:
    """A device of ``units`` equal processors.

    memory_gb_s, cache_gb_s: what all of them together read from memory, and from the cache that they share.
    tflops: multiplications and additions in 16 bit of all of them. unit_us: fixed cost of a unit of work.
    tile: most matrix rows (rows x query heads of a kv head) that a unit of the kernel keeps on chip, at head_dim 128
    in 16 bit. step: matrix rows are computed in multiples of this. whole_tiles: the kernel computes all rows of a unit
    for every token that it reads, also where few of them see it. tolerance: among plans that are slower
    than the fastest by no more than this factor the one that requests the fewest bytes is taken.
    """

    units: int
    memory_gb_s: float
    cache_gb_s: float
    tflops: float
    unit_us: float
    tile: int
    step: int
    whole_tiles: bool = True
    tolerance: float = 1.25


# Of the matrix throughput on the data sheet attention reaches two thirds at best; of the shared cache's, about as much.
PROCESSORS = {
    "h100": Processor(units=132, memory_gb_s=3350, cache_gb_s=5500, tflops=660, unit_us=1, tile=256, step=64),
    # The shared cache's figure is a guess: twice the H100's.
    "b200": Processor(units=148, memory_gb_s=8000, cache_gb_s=11000, tflops=1500, unit_us=1, tile=128, step=64),
    "a100": Processor(units=108, memory_gb_s=2039, cache_gb_s=4700, tflops=208, unit_us=1, tile=128, step=64),
    "rtx4090": Processor(units=128, memory_gb_s=1008, cache_gb_s=3400, tflops=110, unit_us=1, tile=128, step=64),
    # One thread of a server CPU.
    "cpu": Processor(
        units=1,
        memory_gb_s=12,
        cache_gb_s=30,
        tflops=0.07,
        unit_us=2,
        tile=192,
        step=6,
        whole_tiles=False,
        tolerance=1.05,
    ),
}


def fewest_bytes(processor: Processor) -> Processor:
    """The same processor for a planner that counts requested bytes only, however few units are left to run."""
    return replace(processor, tolerance=math.inf)


def processor_of(device: torch.device) -> Processor:
    """The entry of the table that is nearest to ``device``."""
    if device.type == "cpu":
        one, threads = PROCESSORS["cpu"], torch.get_num_threads()
        return replace(one, units=threads, cache_gb_s=one.cache_gb_s * threads, tflops=one.tflops * threads)
    properties = torch.cuda.get_device_properties(device)
    # Those with less shared memory than a data centre's count as the last.
    name = {(8, 0): "a100", (9, 0): "h100", (10, 0): "b200", (10, 3): "b200"}.get(
        (properties.major, properties.minor), "rtx4090"
    )
    return replace(PROCESSORS[name], units=properties.multi_processor_count)


@dataclass(frozen=True)
class AttentionShape:
    """Sizes of one attention call. dtype: of queries and outputs; kv_dtype: of keys and values, dtype when None."""

    q_heads: int = 8
    kv_heads: int = 2
    head_dim: int = 64
    dtype: torch.dtype = torch.float32
    kv_dtype: torch.dtype | None = None

    def __post_init__(self) -> None:
        if min(self.q_heads, self.kv_heads, self.head_dim) < 1 or self.q_heads % self.kv_heads:
            raise ValueError(
                "AttentionShape: q_heads must be a multiple of kv_heads, all positive, got "
                f"q_heads={self.q_heads}, kv_heads={self.kv_heads}, head_dim={self.head_dim}"
            )

    @property
    def group(self) -> int:
        """Query heads per kv head."""
        return self.q_heads // self.kv_heads

    @property
    def token_bytes(self) -> int:
        """Keys and values of one token in one kv head."""
        return 2 * self.head_dim * (self.kv_dtype or self.dtype).itemsize

    @property
    def row_bytes(self) -> int:
        """The query, or the output, of one row in the heads of one kv head."""
        return self.group * self.head_dim * self.dtype.itemsize

    def part_bytes(self, on_cpu: bool = False) -> int:
        """One partial result of one row in the heads of one kv head: 16 bit where the output is, and its lse."""
        return self.group * (self.head_dim * (4 if on_cpu else min(4, self.dtype.itemsize)) + 4)


def gpu_tile(processor: Processor, shape: AttentionShape) -> int:
    """Matrix rows of the Triton kernel's tallest tile: float32 has no tensor cores, wide heads fill the registers."""
    if shape.dtype == torch.float32:
        return 16
    return processor.tile if shape.head_dim <= 128 else min(processor.tile, 64)


def costs_of(processor: Processor, shape: AttentionShape, on_cpu: bool) -> _host.Costs:
    """The planner's cost model: times in ns, sizes in bytes of one kv head."""
    costs = _ext.host().Costs()
    costs.group, costs.kv_heads = shape.group, shape.kv_heads
    costs.kv_bytes, costs.q_bytes = shape.token_bytes, shape.row_bytes
    costs.part_bytes = shape.part_bytes(on_cpu)
    costs.flops = 4 * shape.head_dim
    costs.processors = processor.units
    costs.ns_per_byte = processor.units / processor.cache_gb_s
    costs.ns_per_flop = processor.units / (1000 * processor.tflops)
    costs.unit_ns = 1000 * processor.unit_us
    costs.memory_bytes_per_ns = processor.memory_gb_s
    costs.tolerance, costs.whole_tiles = processor.tolerance, processor.whole_tiles
    costs.tile, costs.step = max(processor.tile if on_cpu else gpu_tile(processor, shape), shape.group), processor.step
    return costs
