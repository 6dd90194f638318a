"""Memory for the KV pages of one model, or of several that share it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import lcm
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tts_kernels import _ext
from tts_kernels._checks import expect
from tts_kernels.backends import Backend
from tts_kernels.ops.copy_pages import copy_pages


@dataclass(frozen=True)
class KVLayout:
    """What a model keeps of a token, and how many tokens a page has."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    page_size: int = 16
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        for name in ("num_layers", "num_kv_heads", "head_dim", "page_size"):
            size = getattr(self, name)
            expect("KVLayout", isinstance(size, int) and size > 0, name, "a positive int", size)

    @property
    def slab_bytes(self) -> int:
        """Bytes of one page's keys, or values, in one layer."""
        return self.num_kv_heads * self.page_size * self.head_dim * self.dtype.itemsize

    @property
    def page_bytes(self) -> int:
        """Bytes of one page: keys and values of all layers."""
        return 2 * self.num_layers * self.slab_bytes

    @property
    def token_bytes(self) -> int:
        """Bytes of one token: keys and values of all layers."""
        return self.page_bytes // self.page_size


class KVMemory:
    """Memory that several models share: frames, each of which holds one page of any of them.

    kv_bytes, or num_pages: how much. Who needs a page takes a free frame, so memory is divided by need from call to
    call. A frame is as large as the largest page among ``layouts``. Memory is not initialised; kernels read only what
    was written. Raises ValueError for no layouts, and when not even one frame fits.
    """

    def __init__(
        self,
        layouts: Sequence[KVLayout],
        kv_bytes: int,
        device: torch.device | str = "cpu",
        num_pages: int | None = None,
    ) -> None:
        expect("KVMemory", len(layouts) > 0, "layouts", "at least one", "none")
        self.layouts = tuple(layouts)
        self.frame_bytes = _frame_bytes(layouts)
        if num_pages is not None:
            expect("KVMemory", isinstance(num_pages, int) and num_pages > 0, "num_pages", "a positive int", num_pages)
        count = int(kv_bytes) // self.frame_bytes if num_pages is None else num_pages
        expect("KVMemory", count > 0, "kv_bytes", f"at least one frame of {self.frame_bytes} bytes", kv_bytes)
        self.frames = _ext.host().Frames(count)
        self.bytes: Tensor = torch.empty(count * self.frame_bytes, dtype=torch.uint8, device=device)

    def pool(self, layout: KVLayout, backend: Backend | None = None) -> KVPool:
        """A pool of pages of this layout, one of those that the memory was made for."""
        return KVPool(self, layout, backend)


def _frame_bytes(layouts: Sequence[KVLayout]) -> int:
    # Twice: copy_pages moves a frame as two halves.
    unit = 2 * lcm(*(layout.slab_bytes for layout in layouts))
    return -(-max(layout.page_bytes for layout in layouts) // unit) * unit


def fitting_page_sizes(
    one: KVLayout, other: KVLayout, sizes: Sequence[int] = (16, 32), other_sizes: Sequence[int] = (8, 16, 32, 64)
) -> list[KVLayout]:
    """The two layouts with page sizes that waste least of the frames they share; among equals the first sizes.

    Raises ValueError for no sizes to choose from.
    """
    expect("fitting_page_sizes", bool(sizes and other_sizes), "sizes and other_sizes", "not empty", "none")

    def cost(pair: list[KVLayout]) -> tuple[float, int]:
        frame = _frame_bytes(pair)
        used = [layout.page_bytes / frame for layout in pair]
        return 1.0 / (used[0] * used[1]), abs(pair[0].page_size - pair[1].page_size)

    pairs = [[replace(one, page_size=a), replace(other, page_size=b)] for a in sizes for b in other_sizes]
    return min(pairs, key=cost)


class KVPool:
    """Keys and values of every node of a forest.

    ``forest`` is the compiled page table: node ids, lengths, slots. Frame f of the memory is page ``f * stride``.
    ``pages``: [num_pages, stride, num_kv_heads, page_size, head_dim], all that a frame holds: keys of layer l at 2 * l,
    values behind them, perhaps unused room at the end.
    """

    def __init__(self, memory: KVMemory, layout: KVLayout, backend: Backend | None = None) -> None:
        expect("KVPool", layout in memory.layouts, "layout", f"one of the memory's {memory.layouts}", layout)
        self.memory = memory
        self.layout = layout
        self.backend = backend
        stride = memory.frame_bytes // layout.slab_bytes
        self.forest: Any = _ext.host().Forest(memory.frames, layout.page_size, stride)
        shape = (layout.num_kv_heads, layout.page_size, layout.head_dim)
        values = memory.bytes.view(layout.dtype)
        self.pages: Tensor = values.view(memory.frames.count, stride, *shape)
        slabs = values.view(-1, *shape)
        # Where layer l finds the pages of the plan: page p is slab p behind the layer's own first one.
        self._layers = [(slabs[k:-1], slabs[k + 1 :]) for k in range(0, 2 * layout.num_layers, 2)]
        halves = values.view(1, -1, 1, 1, memory.frame_bytes // 2 // layout.dtype.itemsize)
        self._halves = halves[:, :-1], halves[:, 1:]

    @property
    def num_pages(self) -> int:
        return self.forest.num_pages

    @property
    def page_size(self) -> int:
        return self.layout.page_size

    def layer(self, index: int) -> tuple[Tensor, Tensor]:
        """Key and value pages of a layer, [*, num_kv_heads, page_size, head_dim], indexed by the forest's pages."""
        return self._layers[index]

    def fork(self, nodes: np.ndarray, widths: np.ndarray, keep: bool = False) -> np.ndarray:
        """Give node i ``widths[i]`` children that share its full pages; partial pages are copied, all layers at once.

        Without ``keep`` the parents are released and the last child of each takes the partial page over.
        Returns the children's ids, int32 [sum(widths)], children of a node adjacent. Raises OutOfPages, changing
        nothing.
        """
        children, src, dst = self.forest.fork(nodes, widths, keep)
        if len(src):
            device, stride = self.pages.device, self.forest.page_stride
            first, second = (torch.from_numpy(2 * (pages // stride)).to(device) for pages in (src, dst))
            copy_pages(*self._halves, first, second, backend=self.backend)
        return children
