"""Which tiles the Triton kernel runs with.

Found by compiling: the tallest tile for which no target spills a register, since a unit's keys are read once per tile.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton

from tts_kernels import _ext

# The target that the interpreter stands for.
INTERPRETED = 90


@dataclass(frozen=True)
class Tiles:
    """wide: matrix rows of the tallest tile. keys, wide_keys: keys per step in tiles of up to 64 rows and in taller."""

    wide: int
    keys: int
    wide_keys: int
    warps: int
    stages: int


def target() -> int:
    """Compute capability of the current device, 90 for 9.0; 0 for devices that are not NVIDIA's."""
    if _ext.triton_interpreted():
        return INTERPRETED
    arch = triton.runtime.driver.active.get_current_target().arch
    return arch if isinstance(arch, int) else 0


def tallest(q_dtype: torch.dtype, kv_dtype: torch.dtype, block_d: int, capability: int) -> Tiles:
    """For D padded to ``block_d``. 8 warps throughout: with 4 a tile of 64 x 128 fills the registers, with 16 a thread
    has 128 of them, too few for the join.
    """
    generation = capability // 10
    # With two stages a copy is waited for where it is issued; three keep one in flight.
    stages = 3 if capability else 2
    if q_dtype == torch.float32:
        # No tensor cores: products unrolled in registers.
        return Tiles(16, 16, 16, 8, stages)
    if block_d > 128:
        # As many keys as fit the shared memory: 227 KB, 163 KB on 8.0, 99 KB.
        keys = {9: 64, 10: 64}.get(generation, 32 if capability in (0, 80) else 16)
        return Tiles(64, keys, keys, 8, stages)
    if generation == 9:
        # The accumulator of 256 x 128 is 128 registers a thread; scores of 64 keys would not fit beside it.
        return Tiles(256, 64, 32, 8, stages)
    if generation == 10:
        # The accumulator lives in tensor memory but passes the registers to be rescaled; at 256 rows that spills.
        return Tiles(128, 64, 64 if kv_dtype == q_dtype else 32, 8, stages)
    # Operands pass the registers too.
    return Tiles(128, 64, 32, 8, stages)
