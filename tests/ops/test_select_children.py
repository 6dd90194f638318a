import itertools
import math
import random

import pytest
import torch

from tts_kernels.backends import why_not
from tts_kernels.ops.select_children import RULES, select_children


def groups_of(sizes):
    return torch.tensor([0, *itertools.accumulate(sizes)], dtype=torch.int32)


def one_group(scores, keep, budget, device, **options):
    numbers = {"dtype": torch.int32, "device": device}
    scores = torch.tensor(scores, dtype=torch.float32, device=device)
    offsets, keep, budget = (torch.tensor(x, **numbers) for x in ([0, len(scores)], [keep], [budget]))
    return select_children(scores, offsets, keep, budget, **options).tolist()


def brute_force(scores, keep, budget, rule, temperature):
    """One group, straight from the definition: pick the best again and again."""
    widths, left, kept = [0] * len(scores), list(range(len(scores))), []
    for _ in range(min(keep, len(scores))):
        best = left[0]
        for i in left:
            if scores[i] > scores[best]:
                best = i
        kept.append(best)
        left.remove(best)
    if rule == "topk":
        for i in range(budget if kept else 0):
            widths[kept[i % len(kept)]] += 1
        return widths
    remaining = budget
    for place, i in enumerate(kept):
        weights = [math.exp((scores[j] - scores[kept[0]]) / temperature) for j in kept[place:]]
        if remaining:
            widths[i] = min(remaining, math.ceil(remaining * weights[0] / math.fsum(weights) - 1e-7))
        remaining -= widths[i]
    return widths


def random_case(seed, count=500):
    """Groups of random size, half of them with many equal scores; some keep nobody or have no budget."""
    draw = random.Random(seed)
    scores, sizes, keep, budget = [], [], [], []
    for group in range(count):
        sizes.append(draw.choice([0, 1, 2, 3, 5, 16, 33]))
        scores += [draw.randrange(5) / 4 if group % 2 else draw.random() for _ in range(sizes[-1])]
        keep.append(draw.choice([0, 1, 2, 4, 7, 40]))
        budget.append(draw.choice([0, 1, 3, 16, 64, 257, 100_000]))
    return torch.tensor(scores, dtype=torch.float32), sizes, keep, budget


def check(backend, device, seed, rule, temperature):
    # Triton's interpreter takes milliseconds per group.
    scores, sizes, keep, budget = random_case(seed, 30 if backend == "triton" and device.type == "cpu" else 500)
    numbers = {"dtype": torch.int32, "device": device}
    args = scores.to(device), groups_of(sizes).to(device), *(torch.tensor(x, **numbers) for x in (keep, budget))
    widths = select_children(*args, rule=rule, temperature=temperature, backend=backend)
    assert widths.dtype == torch.int32
    groups = zip(scores.split(sizes), widths.cpu().split(sizes), keep, budget, strict=True)
    for group, got, kept, total in groups:
        assert got.sum() == (total if min(kept, len(group)) > 0 else 0)
        assert got.tolist() == brute_force(group.tolist(), kept, total, rule, temperature)


@pytest.mark.parametrize("seed", range(7))
@pytest.mark.parametrize(("rule", "temperature"), [("topk", 0.1), ("rebase", 0.1), ("rebase", 1.0), ("rebase", 0.003)])
def test_matches_brute_force(backend, device, seed, rule, temperature):
    """14,000 groups: sums are exact and widths are those of the definition."""
    check(backend, device, seed, rule, temperature)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("keep", [1, 65, 150, 200])
def test_groups_of_several_tiles(backend, device, rule, keep):
    """Between small groups, with ties across the tiles."""
    draw = random.Random(keep)
    sizes, scores = [3, 150, 64, 65, 1], []
    for size in sizes:
        scores.append([draw.choice([draw.random(), 0.5, 0.25]) for _ in range(size)])
    flat = torch.tensor([x for group in scores for x in group])
    numbers = {"dtype": torch.int32, "device": device}
    args = torch.tensor([keep] * 5, **numbers), torch.tensor([977] * 5, **numbers)
    widths = select_children(
        flat.to(device), groups_of(sizes).to(device), *args, rule=rule, temperature=0.3, backend=backend
    )
    for group, got in zip(flat.split(sizes), widths.cpu().split(sizes), strict=True):
        assert got.tolist() == brute_force(group.tolist(), keep, 977, rule, 0.3)


@pytest.mark.parametrize("rule", RULES)
def test_every_instruction_set(isa, rule):
    check("native", torch.device("cpu"), 100, rule, 0.2)


def test_topk_written_out(backend, device):
    scores = [0.1, 0.9, 0.5, 0.9, 0.2]
    assert one_group(scores, 2, 7, device, backend=backend) == [0, 4, 0, 3, 0]
    assert one_group(scores, 3, 7, device, backend=backend) == [0, 3, 2, 2, 0]
    assert one_group(scores, 9, 3, device, backend=backend) == [0, 1, 1, 1, 0]
    assert one_group(scores, 1, 4, device, backend=backend) == [0, 4, 0, 0, 0]
    assert one_group(scores, 0, 4, device, backend=backend) == [0] * 5


def test_rebase_written_out(backend, device):
    """Weights 1, 1/2, 1/4: ceil(17 * 4/7) = 10, ceil(7 * 2/3) = 5, and what is left."""
    scores = [-2 * math.log(2), 0.0, -math.log(2)]
    options = {"rule": "rebase", "temperature": 1.0, "backend": backend}
    assert one_group(scores, 3, 17, device, **options) == [2, 10, 5]
    assert one_group(scores, 2, 17, device, **options) == [0, 12, 5]
    assert one_group(scores, 3, 1, device, **options) == [0, 1, 0]
    assert one_group([0.5] * 4, 4, 10, device, **options) == [3, 3, 2, 2]


def test_rebase_shares_evenly_among_equals(backend, device):
    """Also when rounding makes a whole share look a hair larger: their widths differ by at most one, the first's up."""
    options = {"rule": "rebase", "temperature": 1.0, "backend": backend}
    for size in range(1, 40):
        assert one_group([0.5] * size, 99, 3 * size, device, **options) == [3] * size
        widths = one_group([1.0] + [0.3] * size, 99, 5 * size, device, **options)[1:]
        assert widths == sorted(widths, reverse=True)
        assert widths[0] - widths[-1] <= 1


def test_rebase_never_gives_more_than_is_left(backend, device):
    """Weights that rounding alone keeps above zero must neither over-allocate nor divide zero by zero."""
    for scores in ([0.0, -36.7, -36.8, -37.0], [0.0, -800.0, -900.0], [3e38, -3e38], [1.0, 1.0 - 1e-7, 1.0 - 2e-7]):
        for budget in (1, 2, 3, 5, 2**31 - 1):
            widths = one_group(scores, len(scores), budget, device, rule="rebase", temperature=1.0, backend=backend)
            assert sum(widths) == budget
            assert min(widths) >= 0


@pytest.mark.parametrize("rule", RULES)
def test_infinite_scores(backend, device, rule):
    options = {"rule": rule, "backend": backend}
    assert one_group([-math.inf] * 3, 2, 5, device, **options) == [3, 2, 0]
    assert one_group([-math.inf, 0.5], 1, 5, device, **options) == [0, 5]
    assert one_group([1.0, math.inf, math.inf], 2, 5, device, **options) == [0, 3, 2]


@pytest.mark.parametrize("rule", RULES)
def test_empty(backend, device, rule):
    numbers = {"dtype": torch.int32, "device": device}
    none, scores = torch.tensor([], **numbers), torch.tensor([], device=device)
    assert select_children(scores, torch.zeros(1, **numbers), none, none, rule=rule, backend=backend).shape == (0,)
    two = torch.tensor([4, 4], **numbers)
    assert select_children(scores, torch.zeros(3, **numbers), two, two, rule=rule, backend=backend).shape == (0,)
    assert one_group([], 2, 3, device, rule=rule, backend=backend) == []


@pytest.mark.parametrize("rule", RULES)
def test_strided_arguments_and_threads(backend, device, rule):
    scores, sizes, keep, budget = random_case(50, 60)
    args = [x.to(device) for x in (scores, groups_of(sizes), torch.tensor(keep), torch.tensor(budget))]
    args[2:] = [x.int() for x in args[2:]]
    want = select_children(*args, rule=rule, backend=backend)
    strided = [torch.stack([x, x * 0 - 1], 1)[:, 0] for x in args]
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 3)
    try:
        got = select_children(*strided, rule=rule, backend=backend)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(got, want)


def test_bad_input():
    scores, offsets = torch.rand(5), groups_of([2, 3])
    keep, budget = torch.tensor([1, 2], dtype=torch.int32), torch.tensor([4, 5], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"select_children: offsets must be \[3\], got \[2\]"):
        select_children(scores, offsets[:2], keep, budget)
    with pytest.raises(ValueError, match=r"select_children: budget must be \[G\], got \[1\] \(G=2 from keep\)"):
        select_children(scores, offsets, keep, budget[:1])
    with pytest.raises(TypeError, match="select_children: scores must be float32, got float64"):
        select_children(scores.double(), offsets, keep, budget)
    with pytest.raises(TypeError, match="select_children: keep must be int32, got int64"):
        select_children(scores, offsets, keep.long(), budget)
    with pytest.raises(ValueError, match="select_children: rule must be topk or rebase, got 'beam'"):
        select_children(scores, offsets, keep, budget, rule="beam")
    for temperature in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="select_children: temperature must be positive and finite"):
            select_children(scores, offsets, keep, budget, rule="rebase", temperature=temperature)
    with pytest.raises(ValueError, match=r"select_children: keep must be at least 0, got \[1, -1\]"):
        select_children(scores, offsets, torch.tensor([1, -1], dtype=torch.int32), budget)
    with pytest.raises(ValueError, match=r"select_children: budget must be at least 0, got \[-4, -5\]"):
        select_children(scores, offsets, keep, -budget)
    if why_not("select_children", "triton", "cpu") is not None:
        with pytest.raises(RuntimeError, match="select_children: backend 'triton' cannot run here"):
            select_children(scores, offsets, keep, budget, backend="triton")
    for wrong in ([0, 6, 5], [0, 2, 4], [1, 2, 5]):
        with pytest.raises(ValueError, match="select_children: offsets must be ascending from 0 to 5"):
            select_children(scores, torch.tensor(wrong, dtype=torch.int32), keep, budget)
    scores[3] = math.nan
    with pytest.raises(ValueError, match="select_children: scores must not be NaN, got NaN for candidate 3"):
        select_children(scores, offsets, keep, budget)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("keep", "budget"), [(2400, 40), (7, 100), (9000, 5), (2050, 5000)])
def test_groups_too_large_to_sort(backend, device, rule, keep, budget):
    """Past the candidates that a block of the CUDA kernel sorts, with many ties, next to groups that it does sort."""
    if backend == "triton" and device.type == "cpu":
        pytest.skip("minutes in the interpreter")
    sizes = [2048, 5, 2500, 2049]
    scores = torch.rand(sum(sizes), generator=torch.Generator().manual_seed(0)).mul(50).round().div(50).to(device)
    offsets = torch.tensor([0, *torch.tensor(sizes).cumsum(0)], dtype=torch.int32, device=device)
    limits = [torch.full((4,), x, dtype=torch.int32, device=device) for x in (keep, budget)]
    got = select_children(scores, offsets, *limits, rule=rule, temperature=0.3, backend=backend)
    assert torch.equal(got, select_children(scores, offsets, *limits, rule=rule, temperature=0.3, backend="reference"))
