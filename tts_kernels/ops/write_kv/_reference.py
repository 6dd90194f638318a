from itertools import groupby

import torch
from torch import Tensor


def write_kv(
    k: Tensor,
    v: Tensor,
    k_pages: Tensor,
    v_pages: Tensor,
    slots: Tensor,
    k_scales: Tensor | None,
    v_scales: Tensor | None,
) -> None:
    for rows, pages, scales in ((k, k_pages, k_scales), (v, v_pages, v_scales)):
        if scales is None:
            for n, slot in enumerate(slots.tolist()):
                pages[slot // pages.shape[2], :, slot % pages.shape[2]] = rows[n]
        elif rows.numel():
            _write_8_bit(rows, pages, scales, slots.tolist())


def _write_8_bit(rows: Tensor, pages: Tensor, scales: Tensor, slots: list[int]) -> None:
    page_size = pages.shape[2]
    for page, members in groupby(range(len(slots)), key=lambda n: slots[n] // page_size):
        group = list(members)
        offsets = [slots[n] % page_size for n in group]
        x = rows[group].to(torch.float32)
        old = scales[page] if offsets[0] > 0 else torch.zeros_like(scales[page])
        new = torch.maximum(old, x.abs().amax((0, 2)) / LARGEST[pages.dtype])
        older = pages[page, :, : offsets[0]]
        again = _quantise(older.to(torch.float32) * old[:, None, None], new[:, None, None], pages.dtype)
        # Head by head: torch.where does not take float8.
        for head in (new > old).nonzero().flatten().tolist():
            older[head] = again[head]
        for offset, token in zip(offsets, x, strict=True):
            pages[page, :, offset] = _quantise(token, new[:, None], pages.dtype)
        scales[page] = new


def _quantise(x: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Nearest representable multiples of the scale, ties to even; a scale of 0 means that all of x is 0."""
    largest = LARGEST[dtype]
    q = (x / torch.where(scale == 0, 1.0, scale)).clamp(-largest, largest)
    return (q if dtype.is_floating_point else q.round()).to(dtype)


# The largest magnitude that an 8-bit page holds, times its scale.
LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}
