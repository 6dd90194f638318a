"""Random inputs that show mistakes: peaky values, poison where nothing may be read."""

from __future__ import annotations

import torch
from torch import Tensor

# Stands in unused places of index tensors: an address computed from it faults or reads poison.
POISON_INDEX = 2**31 - 1


def peaky(*shape: int, generator: torch.Generator, dtype: torch.dtype = torch.float32, scale: float = 3.0) -> Tensor:
    """Normal values of which a tenth is ``scale`` times larger.

    Uniform noise makes every soft-max flat and lets a wrong mask or index pass as rounding; a few large values do not.
    """
    values = torch.randn(*shape, generator=generator)
    large = torch.rand(*shape, generator=generator) < 0.1
    return torch.where(large, values * scale, values).to(dtype)
