"""Launches the Triton kernels of sample_children.

A row is cut into parts of at most 4096 tokens, one program each, so that a few rows with a huge vocabulary fill a
device; the parts of a row depend on the vocabulary only, so that its result does not depend on its company.

Passes over the logits: one for the maximum and the soft-max. Independent draws then read one part per child; with a
restriction they need a pass for what is kept of each part. Children in order (distinct, or temperature 0) take a second
pass for the best of each part. top-k and top-p cost a pass each per 11 bits of a logit, three for float32 and two for
the 16-bit types, and with either one pass counts the ties of the cut. The first pass reads memory, the others what the
L2 keeps of it.

Weights, sums, noise and scores are double: a draw that float32 would decide otherwise than the reference is about one
in a million, and a search makes as many. The host reads nothing back.
"""

import torch
import triton
from torch import Tensor

from tts_kernels.ops._double_argument import double_bits
from tts_kernels.ops.sample_children._triton_cut import BINS, _cut_kernel
from tts_kernels.ops.sample_children._triton_draw import _draw_kernel, _kept_kernel, _stats_kernel
from tts_kernels.ops.sample_children._triton_order import _best_kernel, _merge_kernel

TILE = 4096
WARPS = 16


class Rows:
    """The rows of one call cut into parts, and what the passes leave of them for the next."""

    def __init__(self, logits: Tensor, keys: Tensor, positions: Tensor, widths: Tensor) -> None:
        self.logits = logits if logits.stride(1) == 1 else logits.contiguous()
        self.keys, self.positions = keys.contiguous(), positions.contiguous()
        self.count, self.vocab = logits.shape
        self.offsets = widths.new_zeros(self.count + 1)
        torch.cumsum(widths, 0, dtype=torch.int32, out=self.offsets[1:])
        self.tile = min(TILE, max(64, triton.next_power_of_2(self.vocab)))
        self.parts = triton.cdiv(self.vocab, self.tile)
        self.part_max = self.per_part(torch.float32)
        self.part_sum = self.per_part(torch.float64)
        self.part_mass = self.per_part(torch.float64)
        self.part_ties = self.per_part(torch.int32)
        self.state = logits.new_zeros(self.count, 4, dtype=torch.int64)

    def per_part(self, dtype: torch.dtype) -> Tensor:
        return self.logits.new_empty(self.count, self.parts, dtype=dtype)

    @property
    def grid(self) -> tuple[int, int]:
        return self.count, self.parts

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.vocab, self.logits.stride(0), self.parts

    @property
    def meta(self) -> dict[str, int]:
        return {"TILE": self.tile, "PARTS": triton.next_power_of_2(self.parts), "num_warps": WARPS}


def find_cut(rows: Rows, scale: int, top_k: int, top_p: float) -> None:
    """Leaves the cut of every row in ``rows.state``."""
    bins = rows.logits.new_zeros(rows.count, BINS.value, dtype=torch.int64)
    levels = 3 if rows.logits.dtype == torch.float32 else 2
    # A power of two with which the weights of a whole row fit an int64.
    unit = float(2 ** min(52, 62 - rows.vocab.bit_length()))
    tensors = rows.logits, rows.offsets, rows.part_max, bins, rows.state
    options = min(top_k, rows.vocab), double_bits(top_p), scale
    # The bins of a program need more registers than a thread of 16 warps may have.
    meta = rows.meta | {"num_warps": 4}
    for by_count in [True] * (top_k > 0) + [False] * (top_p < 1):
        flags = {"BY_COUNT": by_count, "AFTER_COUNT": not by_count and top_k > 0, "UNIT": unit}
        for level in range(levels):
            last = level == levels - 1
            _cut_kernel[rows.grid](*tensors, *rows.shape, *options, **meta, **flags, LEVEL=level, LAST=last)


def draw_independent(rows: Rows, widths: Tensor, outs: tuple[Tensor, Tensor], options: tuple, flags: dict) -> None:
    total = len(outs[0])
    owners = torch.repeat_interleave(torch.arange(rows.count, device=widths.device), widths, output_size=total)
    _draw_kernel[(total,)](
        *(rows.logits, rows.keys, rows.positions, rows.offsets, owners),
        *(rows.part_max, rows.part_sum, rows.part_mass, rows.state, rows.part_ties),
        *(*outs, *rows.shape, *options),
        **rows.meta,
        **flags,
    )


def draw_in_order(rows: Rows, outs: tuple[Tensor, Tensor], options: tuple, flags: dict) -> None:
    total = len(outs[0])
    score = rows.logits.new_empty(rows.parts, total, dtype=torch.float64)
    token = rows.logits.new_empty(rows.parts, total, dtype=torch.int32)
    _best_kernel[rows.grid](
        *(rows.logits, rows.keys, rows.positions, rows.offsets, rows.part_max, rows.state, rows.part_ties),
        *(score, token, *rows.shape, total, *options),
        # The noise needs more registers than a thread of 16 warps may have.
        **(rows.meta | {"num_warps": 8}),
        **flags,
    )
    _merge_kernel[(rows.count,)](
        *(rows.logits, rows.offsets, rows.part_max, rows.part_sum, score, token, *outs),
        *(rows.logits.stride(0), rows.parts, total),
        **(rows.meta | {"num_warps": 1}),
        DISTINCT=flags["DISTINCT"],
    )


def sample_children(
    logits: Tensor,
    keys: Tensor,
    positions: Tensor,
    widths: Tensor,
    total: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    distinct: bool,
) -> tuple[Tensor, Tensor]:
    if logits.dtype == torch.float64:
        raise TypeError("sample_children: triton kernels take float32, bfloat16 or float16 logits, got float64")
    outs = keys.new_full((total,), -1), logits.new_full((total,), torch.nan, dtype=torch.float32)
    if total == 0 or logits.shape[1] == 0:
        return outs
    # At temperature 0 the restrictions play no part.
    cut = temperature > 0 and (top_k > 0 or top_p < 1)
    in_order, restricted = distinct or temperature == 0, cut or min_p > 0
    scale = double_bits(1.0 / temperature if temperature > 0 else 1.0)
    options = scale, double_bits(min_p)
    with torch.cuda.device_of(logits):
        rows = Rows(logits, keys, positions, widths)
        _stats_kernel[rows.grid](
            *(rows.logits, rows.offsets, rows.part_max, rows.part_sum, rows.part_mass, *rows.shape, scale),
            **{"TILE": rows.tile, "MASS": not in_order and not restricted, "num_warps": WARPS},
        )
        if cut:
            find_cut(rows, scale, top_k, top_p)
        if cut or (restricted and not in_order):
            _kept_kernel[rows.grid](
                *(rows.logits, rows.offsets, rows.part_max, rows.state, rows.part_mass, rows.part_ties),
                *(*rows.shape, *options),
                **rows.meta,
                **{"CUT": cut, "MASS": not in_order},
            )
        if in_order:
            draw_in_order(rows, outs, options, {"CUT": cut, "NOISE": temperature > 0, "DISTINCT": distinct})
        else:
            draw_independent(rows, widths, outs, options, {"CUT": cut, "RESTRICTED": restricted})
    return outs
