import torch
from torch import Tensor

MASK = 0xFFFFFFFF


def philox(key: int, counter: tuple[Tensor, Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Philox4x32-10 of Salmon et al. (SC 2011) on int64 tensors that hold 32-bit words."""

    def multiply(words: Tensor, factor: int) -> tuple[Tensor, Tensor]:
        # By halves: a product of two 32-bit words does not fit int64.
        high, low = words * (factor >> 16), words * (factor & 0xFFFF)
        return (high + (low >> 16)) >> 16, (((high & 0xFFFF) << 16) + low) & MASK

    key0, key1 = key & MASK, key >> 32 & MASK
    c0, c1, c2, c3 = counter
    for _ in range(10):
        high0, low0 = multiply(c0, 0xD2511F53)
        high1, low1 = multiply(c2, 0xCD9E8D57)
        c0, c1, c2, c3 = high1 ^ c1 ^ key0, low1, high0 ^ c3 ^ key1, low0
        key0, key1 = key0 + 0x9E3779B9 & MASK, key1 + 0xBB67AE85 & MASK
    return c0, c1, c2, c3


def uniforms(key: int, position: int, purpose: int, seconds: Tensor) -> Tensor:
    """[n, 4] float64 in (0, 1): the words of the counters (position, seconds, purpose, 0)."""
    fill = torch.zeros_like(seconds)
    words = philox(key, (fill + (position & MASK), seconds, fill + purpose, fill))
    return (torch.stack(words, dim=1).double() + 0.5) * 2.0**-32


def support(logits: Tensor, weights: Tensor, top_k: int, top_p: float, min_p: float) -> Tensor:
    """[V] bool: the tokens that top-k, then top-p, then min-p leave."""
    order = torch.argsort(logits, descending=True, stable=True)
    order = order[: int((logits > -torch.inf).sum())]
    if top_k > 0:
        order = order[:top_k]
    if top_p < 1:
        mass = torch.cumsum(weights[order], 0)
        order = order[: int((mass < top_p * mass[-1]).sum()) + 1]
    kept = torch.zeros_like(logits, dtype=torch.bool)
    kept[order] = True
    return kept & (weights >= min_p * weights.max())


def sample_row(logits: Tensor, key: int, position: int, width: int, options: tuple) -> Tensor:
    """[width] tokens of one row of float64 logits."""
    temperature, top_k, top_p, min_p, distinct = options
    if temperature == 0:
        order = torch.argsort(logits, descending=True, stable=True)
        order = order[: int((logits > -torch.inf).sum())] if distinct else order[:1]
        return order[torch.arange(width) % len(order)]
    scaled = (logits - logits.max()) / temperature
    weights = torch.exp(scaled)
    kept = support(logits, weights, top_k, top_p, min_p)
    if distinct:
        blocks = torch.arange((len(logits) + 3) // 4, device=logits.device)
        gumbel = -torch.log(-torch.log(uniforms(key, position, 1, blocks).flatten()[: len(logits)]))
        scores = torch.where(kept, scaled + gumbel, -torch.inf)
        order = torch.argsort(scores, descending=True, stable=True)[: int(kept.sum())]
        return order[torch.arange(width) % len(order)]
    cumulative = torch.cumsum(torch.where(kept, weights, 0.0), 0)
    uniform = uniforms(key, position, 0, torch.arange(width, device=logits.device))[:, 0]
    return torch.searchsorted(cumulative, uniform * cumulative[-1], right=True)


def sample_children(
    logits: Tensor, keys: Tensor, positions: Tensor, widths: Tensor, total: int, *options
) -> tuple[Tensor, Tensor]:
    tokens = keys.new_full((total,), -1)
    log_probs = logits.new_full((total,), torch.nan, dtype=torch.float32)
    end = 0
    for row, key, position, width in zip(logits, keys.tolist(), positions.tolist(), widths.tolist(), strict=True):
        begin, end = end, end + width
        if width == 0 or len(row) == 0 or not torch.isfinite(row.max()):
            continue
        tokens[begin:end] = sample_row(row.double(), key, position, width, options)
        log_probs[begin:end] = torch.log_softmax(row.double(), 0)[tokens[begin:end]].float()
    return tokens, log_probs
