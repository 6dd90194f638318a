import torch
import triton
import triton.language as tl
from torch import Tensor

from tts_kernels.ops._double_argument import as_double, double_bits
from tts_kernels.ops.select_children import Rule

TILE = 64
# A share this near to a whole number is that number: rounding must not lift it to the next.
BELOW_ROUNDING = tl.constexpr(1.0 - 1e-12)


@triton.jit
def _ranks(scores_ptr, places, mine, begin, size, TILE: tl.constexpr):
    """How many candidates of the group come before each of these: larger scores, equal ones of lower index."""
    ranks = tl.zeros((TILE,), tl.int32)  # [TILE]
    for first in range(0, size, TILE):
        others = first + tl.arange(0, TILE)  # [TILE]
        live = others < size
        theirs = tl.load(scores_ptr + begin + others, mask=live, other=-float("inf"))[None, :]  # [1, TILE]
        before = (theirs > mine[:, None]) | ((theirs == mine[:, None]) & (others[None, :] < places[:, None]))
        ranks += tl.sum((before & live[None, :]).to(tl.int32), axis=1)
    return ranks


@triton.jit
def _weights(score, largest, temperature):
    """Soft-max weights; equal infinities weigh the same."""
    score, largest = score.to(tl.float64), largest.to(tl.float64)
    # Infinity minus itself is NaN, which must not be computed even where it is not used.
    gap = tl.where(score == largest, 0.0, score) - tl.where(score == largest, 0.0, largest)
    return tl.exp(gap / temperature)


@triton.jit
def _select_children_kernel(
    scores_ptr,
    offsets_ptr,
    keep_ptr,
    budget_ptr,
    widths_ptr,
    sorted_ptr,
    order_ptr,
    rest_ptr,
    temperature_bits,
    TILE: tl.constexpr,
    REBASE: tl.constexpr,
):
    group = tl.program_id(0).to(tl.int64)
    begin = tl.load(offsets_ptr + group).to(tl.int64)
    size = (tl.load(offsets_ptr + group + 1) - begin).to(tl.int32)
    count = tl.minimum(tl.load(keep_ptr + group), size)
    budget = tl.load(budget_ptr + group)
    even = budget // tl.maximum(count, 1)
    for first in range(0, size, TILE):
        places = first + tl.arange(0, TILE)  # [TILE]
        live = places < size
        mine = tl.load(scores_ptr + begin + places, mask=live, other=-float("inf"))  # [TILE]
        ranks = _ranks(scores_ptr, places, mine, begin, size, TILE)
        widths = tl.zeros((TILE,), tl.int32)  # [TILE]
        if REBASE:
            kept = live & (ranks < count)
            tl.store(sorted_ptr + begin + ranks, mine, mask=kept)
            tl.store(order_ptr + begin + ranks, places, mask=kept)
        else:
            widths = tl.where(ranks < count, even + (ranks < budget - even * count).to(tl.int32), 0)
        tl.store(widths_ptr + begin + places, widths, mask=live)
    if REBASE:
        if count <= 0:
            return
        temperature = as_double(temperature_bits)
        # Other threads of this program have stored the sorted scores, and then the sums.
        tl.debug_barrier()
        largest = tl.load(sorted_ptr + begin)
        after = tl.full((), 0.0, tl.float64)
        # Summed from the small end, so that the last one's weight is all that remains when its turn comes.
        for first in range(0, count, TILE):
            places = count - 1 - first - tl.arange(0, TILE)  # [TILE]
            score = tl.load(sorted_ptr + begin + places, mask=places >= 0, other=-float("inf"))
            weights = tl.where(places >= 0, _weights(score, largest, temperature), 0.0)
            rest = after + tl.cumsum(weights)  # [TILE]
            tl.store(rest_ptr + begin + places, rest, mask=places >= 0)
            after += tl.sum(weights)
        tl.debug_barrier()
        place = tl.full((), 0, tl.int32)
        while (place < count) & (budget > 0):
            weight = _weights(tl.load(sorted_ptr + begin + place), largest, temperature)
            share = budget.to(tl.float64) * weight / tl.load(rest_ptr + begin + place)
            width = tl.minimum(tl.ceil(share * BELOW_ROUNDING).to(tl.int32), budget)
            tl.store(widths_ptr + begin + tl.load(order_ptr + begin + place), width)
            budget -= width
            place += 1


def select_children(
    scores: Tensor, offsets: Tensor, keep: Tensor, budget: Tensor, rule: Rule, temperature: float
) -> Tensor:
    """One launch, a program per group of any size. Ranks are counted, so that ties need no stable sort.

    "rebase" is sequential by nature, each share depends on what is left: the program sorts its scores into scratch
    memory and then walks them until the budget is spent.
    """
    widths = torch.empty_like(scores, dtype=torch.int32, memory_format=torch.contiguous_format)
    if len(keep) == 0:
        return widths
    inputs = (x.contiguous() for x in (scores, offsets, keep, budget))
    # Sorted scores, whose they are, and the weight from each on.
    scratch = (
        torch.empty_like(widths, dtype=torch.float32),
        torch.empty_like(widths),
        torch.empty_like(widths, dtype=torch.float64),
    )
    with torch.cuda.device_of(scores):
        _select_children_kernel[(len(keep),)](
            *(*inputs, widths, *scratch, double_bits(temperature)),
            TILE=min(TILE, max(16, triton.next_power_of_2(len(scores)))),
            REBASE=rule == "rebase",
            num_warps=4,
        )
    return widths
