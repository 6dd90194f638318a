"""One pool of KV pages for all layers of a model, and the forest that says who owns which page."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tts_kernels import _ext
from tts_kernels._checks import expect
from tts_kernels.backends import Backend
from tts_kernels.ops.copy_pages import copy_pages


class KVPool:
    """Keys and values of every node of a forest.

    ``k`` and ``v``: [num_layers, num_pages, num_kv_heads, page_size, head_dim]. ``forest`` is the compiled page table:
    node ids, lengths, slots. Memory is not initialised; kernels read only what was written.
    """

    def __init__(
        self,
        *,
        num_layers: int,
        num_kv_heads: int,
        head_dim: int,
        num_pages: int,
        page_size: int = 16,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        backend: Backend | None = None,
    ) -> None:
        sizes = {
            "num_layers": num_layers,
            "num_kv_heads": num_kv_heads,
            "head_dim": head_dim,
            "num_pages": num_pages,
            "page_size": page_size,
        }
        for name, size in sizes.items():
            expect("KVPool", size > 0, name, "positive", size)
        shape = (num_layers, num_pages, num_kv_heads, page_size, head_dim)
        self.k: Tensor = torch.empty(shape, dtype=dtype, device=device)
        self.v: Tensor = torch.empty(shape, dtype=dtype, device=device)
        self.forest = _ext.host().Forest(num_pages, page_size)
        self.backend = backend

    @property
    def num_pages(self) -> int:
        return self.k.shape[1]

    @property
    def page_size(self) -> int:
        return self.k.shape[3]

    @property
    def bytes_per_token(self) -> int:
        """Bytes of K and V of one token, all layers."""
        num_layers, _, num_kv_heads, _, head_dim = self.k.shape
        return 2 * num_layers * num_kv_heads * head_dim * self.k.element_size()

    def fork(self, nodes: np.ndarray, widths: np.ndarray, keep: bool = False) -> np.ndarray:
        """Give node i ``widths[i]`` children that share its full pages; partial pages are copied, all layers at once.

        Without ``keep`` the parents are released and the last child of each takes the partial page over.
        Returns the children's ids, int32 [sum(widths)], children of a node adjacent. Raises OutOfPages, changing
        nothing.
        """
        children, src, dst = self.forest.fork(nodes, widths, keep)
        if len(src):
            device = self.k.device
            copy_pages(
                self.k,
                self.v,
                torch.from_numpy(src).to(device),
                torch.from_numpy(dst).to(device),
                backend=self.backend,
            )
        return children
