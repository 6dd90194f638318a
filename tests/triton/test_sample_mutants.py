"""The tests of the sampling, scoring and selection kernels, tested: each planted bug must make a small case fail.

A mutant is the kernels' source with one piece of text replaced, imported under another name.
"""

import importlib
import sys
from pathlib import Path

import pytest
import torch

from tts_kernels import _ext
from tts_kernels.ops import sample_children, score_steps, select_children
from tts_kernels.testing import assert_matches_oracle, peaky

if not _ext.triton_interpreted():
    pytest.skip("needs TRITON_INTERPRET=1", allow_module_level=True)

from tts_kernels.testing.meter import Meter, OutOfBounds

OPS = {"sample_children": sample_children, "score_steps": score_steps, "select_children": select_children}
I32 = torch.int32


@pytest.fixture(autouse=True)
def poisoned_scratch():
    """Memory that nobody has written holds NaN or the largest integer."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def mutant(folder, op, file=None, old=None, new=None):
    """The launcher of an op after the replacement, which must apply exactly once."""
    source, name = Path(OPS[op].__file__).parent, f"mutant_{folder.name.replace('-', '_')}"
    package = folder / name
    package.mkdir()
    (package / "__init__.py").touch()
    for path in source.glob("_triton*.py"):
        text = path.read_text()
        if path.name == file:
            assert text.count(old) == 1, f"{file} must have {old!r} once, has it {text.count(old)} times"
            text = text.replace(old, new)
        (package / path.name).write_text(text.replace(f"tts_kernels.ops.{op}._triton", f"{name}._triton"))
    sys.path.insert(0, str(folder))
    try:
        return getattr(importlib.import_module(f"{name}._triton"), op)
    finally:
        sys.path.remove(str(folder))


def sample(run, logits, widths, temperature=1.0, top_k=0, top_p=1.0, min_p=0.0, distinct=False):
    """Against the reference, on given rows."""
    keys = torch.arange(1, len(logits) + 1) * -0x3779B97F4A7C15
    positions = torch.arange(len(logits), dtype=I32) * 1000 + 5
    rows = logits, keys, positions, torch.tensor(widths, dtype=I32), sum(widths)
    options = temperature, top_k, top_p, min_p, distinct
    reference = importlib.import_module("tts_kernels.ops.sample_children._reference").sample_children
    (tokens, log_probs), (wanted, same) = run(*rows, *options), reference(*rows, *options)
    assert torch.equal(tokens, wanted)
    owners = torch.repeat_interleave(torch.arange(len(logits)), rows[3])
    oracle = torch.log_softmax(logits.double(), -1)[owners, wanted.clamp(min=0)]
    drawn = wanted >= 0
    assert log_probs[~drawn].isnan().all()
    assert_matches_oracle(log_probs[drawn], oracle[drawn], same[drawn], "log_probs")


def rows_of_two_parts(quantum=0.0, dtype=torch.float32):
    """Two rows and a part of 4096 tokens and a shorter one. Quantised logits have ties, in both parts and at 0."""
    logits = peaky(2, 4500, generator=torch.Generator().manual_seed(3))
    return (logits if quantum == 0 else (logits / quantum).round() * quantum).to(dtype)


def drawn(run):
    sample(run, rows_of_two_parts(), [5, 4], temperature=0.8)


def distinct(run):
    sample(run, rows_of_two_parts(), [5, 4], temperature=0.8, distinct=True)


def greedy_ties(run):
    logits = torch.full((1, 4500), -1.0)
    logits[0, [7, 900, 4200]] = torch.tensor([2.0, -0.0, 0.0])
    logits[0, [4300, 11]] = torch.tensor([2.0, 2.0])
    sample(run, logits, [7], temperature=0, distinct=True)


def tied_counts(run):
    """The cut is among 0.0 and -0.0, which tie, in both parts; then the mass of what is left."""
    logits = torch.full((1, 4500), -3.0)
    logits[0, ::300] = torch.tensor([0.0, -0.0, 0.0, -0.0, 1.0] * 3)
    sample(run, logits, [16], top_k=9, distinct=True)
    sample(run, logits, [16], top_k=11, distinct=True)
    sample(run, logits, [9], top_k=9, top_p=0.8)
    sample(run, logits, [12], top_k=7, top_p=0.95, distinct=True)


def equal_masses(run):
    logits = torch.full((1, 10), 1.25)
    for top_p in (0.0, 0.6, 0.7):
        sample(run, logits, [10], top_p=top_p, distinct=True)


def nucleus(run):
    sample(run, rows_of_two_parts(0.25), [9, 5], top_p=0.7)
    sample(run, rows_of_two_parts(), [3, 5], top_p=0.9, temperature=0.6)


def close_logits(run):
    """Neighbouring float32, told apart by their last bits only."""
    generator = torch.Generator().manual_seed(1)
    order = torch.randperm(900, generator=generator)
    logits = torch.cat([torch.rand(3600, generator=generator), 1 + order * 2.0**-23])[None]
    sample(run, logits, [20], top_k=17, distinct=True)
    sample(run, logits, [20], top_k=250, top_p=0.07, distinct=True)


def negative_cut_of_16_bits(run):
    logits = -rows_of_two_parts(dtype=torch.bfloat16).abs() - 1
    sample(run, logits, [8, 3], top_k=70, temperature=3.0)


def least_probability(run):
    sample(run, torch.tensor([[0.0, 4.0, 4.0, 3.999]]), [9], min_p=1.0)
    sample(run, torch.tensor([[0.0, 4.0, 4.0, 3.999]]), [3], min_p=1.0, distinct=True)


def unusable_rows(run):
    logits = rows_of_two_parts().repeat(3, 1)
    logits[1, 4400], logits[2, 3], logits[4] = torch.nan, torch.inf, -torch.inf
    sample(run, logits, [1, 2, 2, 0, 1, 1])
    sample(run, logits, [1, 2, 2, 0, 1, 1], top_k=3, distinct=True)


def scored(run, hidden, steps, classes=2, aggregate="mean", prior=None, prior_steps=None):
    generator = torch.Generator().manual_seed(classes)
    # The bias decides, so that the last class wins and the tile before it must be rescaled.
    weight = peaky(classes, hidden.shape[1], generator=generator) / 100
    bias = 3 * peaky(classes, generator=generator).sort().values
    offsets = torch.tensor([0, *steps], dtype=I32).cumsum(0, dtype=I32)
    rows = torch.arange(sum(steps), dtype=I32) % len(hidden)
    options = bias, "softmax", classes - 1, aggregate, prior, prior_steps
    reference = importlib.import_module("tts_kernels.ops.score_steps._reference").score_steps
    got = run(hidden, rows, offsets, weight, *options)
    oracle = reference(hidden.double(), rows, offsets, weight.double(), *options)
    same = reference(hidden, rows, offsets, weight, *options)
    for ours, wanted, theirs in zip(got, oracle, same, strict=True):
        assert torch.equal(ours.isnan(), theirs.isnan())
        finite = ~theirs.isnan()
        assert_matches_oracle(ours[finite], wanted[finite], theirs[finite], "scores")


def many_classes(run):
    scored(run, peaky(3, 1030, generator=torch.Generator().manual_seed(1)), [2, 1], classes=20)


def earlier_steps(run):
    prior, done = torch.tensor([0.5, torch.nan, 0.25, torch.nan]), torch.tensor([3, 0, 2, 0], dtype=I32)
    for aggregate in ("mean", "prod", "min", "last"):
        hidden = peaky(4, 33, generator=torch.Generator().manual_seed(2))
        scored(run, hidden, [2, 1, 0, 0], aggregate=aggregate, prior=prior, prior_steps=done)


def nan_in_the_middle(run):
    hidden = peaky(3, 33, generator=torch.Generator().manual_seed(2))
    hidden[1, 5] = torch.nan
    scored(run, hidden, [3], aggregate="min")


def selected(run, scores, sizes, keep, budget, rule="rebase", temperature=0.5):
    offsets = torch.tensor([0, *sizes], dtype=I32).cumsum(0, dtype=I32)
    numbers = torch.tensor(keep, dtype=I32), torch.tensor(budget, dtype=I32)
    reference = importlib.import_module("tts_kernels.ops.select_children._reference").select_children
    args = scores, offsets, *numbers, rule, temperature
    assert torch.equal(run(*args), reference(*args))


def ties_of_a_group(run):
    scores = torch.tensor([0.3, 0.9, 0.9, 0.3, 0.9, 0.1, 0.7, 0.7])
    for rule in ("topk", "rebase"):
        selected(run, scores, [5, 0, 3], [2, 4, 2], [7, 3, 5], rule)


def equal_shares(run):
    selected(run, torch.full((7,), 0.25), [7], [7], [21])
    selected(run, torch.tensor([1.0] + [0.3] * 39), [40], [40], [195], temperature=1.0)


def several_tiles(run):
    generator = torch.Generator().manual_seed(4)
    scores = (torch.rand(153, generator=generator) * 50).round() / 50
    selected(run, scores, [3, 150], [2, 140], [5, 3000])


CUT, ROW, DRAW, ORDER, ONE = (f"_triton{x}.py" for x in ("_cut", "_row", "_draw", "_order", ""))
SAMPLE, SCORE, SELECT = OPS
MUTANTS = [
    (SAMPLE, ORDER, "tl.join(w0, w2), tl.join(w1, w3)", "tl.join(w0, w1), tl.join(w2, w3)", distinct),
    (SAMPLE, ORDER, "part * (TILE // 4)", "part * TILE", distinct),
    (SAMPLE, ORDER, "tl.philox(key, position, fours, 1, 0)", "tl.philox(key, fours, position, 1, 0)", distinct),
    (SAMPLE, ORDER, "slot = part.to(tl.int64) * total + begin", "slot = begin", distinct),
    (SAMPLE, ORDER, "(tokens > last_token)", "(tokens < last_token)", greedy_ties),
    (SAMPLE, ORDER, "tl.min(tl.where(left & (score", "tl.max(tl.where(left & (score", greedy_ties),
    (SAMPLE, ORDER, "chosen = tl.min(", "chosen = tl.max(0 - ", greedy_ties),
    (SAMPLE, ORDER, "tl.exp(log_weight) >= as", "tl.exp(log_weight) > as", least_probability),
    (SAMPLE, ROW, "tl.where(x == 0.0, 0.0, x)", "x", tied_counts),
    (SAMPLE, ROW, "tl.cumsum(held) - held", "tl.cumsum(held)", tied_counts),
    (SAMPLE, ROW, "<= ties)", "< ties)", tied_counts),
    (SAMPLE, ROW, "bits ^ ((bits >> 31) & 0x7FFFFFFF)", "bits", negative_cut_of_16_bits),
    (SAMPLE, ROW, "sums * tl.exp(scaled(maxima, largest, 1.0))", "sums", drawn),
    (SAMPLE, CUT, "here - need)", "here)", tied_counts),
    (SAMPLE, CUT, "total -= tl.load(state_ptr + 2) * each", "total -= 0 * each", tied_counts),
    (SAMPLE, CUT, "inside &= key >= prefix", "inside &= key == key", tied_counts),
    (SAMPLE, CUT, "(need + each - 1) //", "need //", tied_counts),
    (SAMPLE, CUT, ".to(tl.int64), 1)", ".to(tl.int64) + 1, 1)", equal_masses),
    (SAMPLE, CUT, "as_double(top_p_bits)", "as_double(top_p_bits).to(tl.float32).to(tl.float64)", equal_masses),
    (SAMPLE, CUT, "inside = (key >> 21) == prefix", "inside = key == key", nucleus),
    (SAMPLE, CUT, "inside = (key >> 10) == prefix", "inside = key == key", close_logits),
    (SAMPLE, CUT, "bin_of_key = key & 1023", "bin_of_key = key & 511", close_logits),
    (SAMPLE, CUT, "(ticket + 1) % parts", "ticket % parts", nucleus),
    (SAMPLE, CUT, "tl.zeros_like(held)", "held", nucleus),
    (SAMPLE, CUT, "reverse=True", "reverse=False", nucleus),
    (SAMPLE, CUT, "tl.debug_barrier()\n    ticket", "ticket", nucleus),
    (SAMPLE, CUT, "tl.atomic_add(state_ptr + 3, 1)", 'tl.atomic_add(state_ptr + 3, 1, sem="relaxed")', nucleus),
    (SAMPLE, CUT, "| ((key >> 31) & 1023)", "| 0", negative_cut_of_16_bits),
    (SAMPLE, DRAW, "place.to(tl.int32), 0, 0)", "place.to(tl.int32), 1, 0)", drawn),
    (SAMPLE, DRAW, "tl.where(index < part, mass", "tl.where(index <= part, mass", drawn),
    (SAMPLE, DRAW, "scaled(x_drawn, largest, 1.0)", "scaled(x_drawn, largest, inverse_temperature)", drawn),
    (SAMPLE, DRAW, "weight >= min_p, weight", "weight > min_p, weight", least_probability),
    (SAMPLE, DRAW, 'tl.where(x == x, x, float("inf"))', 'tl.where(x == x, x, -float("inf"))', unusable_rows),
    (SCORE, ONE, "total * tl.exp(before - largest)", "total", many_classes),
    (SCORE, ONE, "begin in range(0, hidden_size, H)", "begin in range(0, H, H)", many_classes),
    (SCORE, ONE, "tl.where(classes < num_classes, logits", "tl.where(classes == classes, logits", many_classes),
    (SCORE, ONE, "| (total != total)", "", nan_in_the_middle),
    (SCORE, ONE, "tl.maximum(earlier + end - begin, 1)", "tl.maximum(end - begin, 1)", earlier_steps),
    (SCORE, ONE, "if earlier > 0:", "if True:", earlier_steps),
    (SCORE, ONE, "tl.where(begin == end, prior, ", "tl.where(False, prior, ", earlier_steps),
    (SELECT, ONE, "others[None, :] < places", "others[None, :] <= places", ties_of_a_group),
    (SELECT, ONE, "ranks < budget - even * count", "ranks <= budget - even * count", ties_of_a_group),
    (SELECT, ONE, "tl.minimum(tl.load(keep_ptr + group), size)", "size", ties_of_a_group),
    (SELECT, ONE, "tl.constexpr(1.0 - 1e-12)", "tl.constexpr(1.0)", equal_shares),
    (SELECT, ONE, "rest = after + tl", "rest = tl", several_tiles),
    (SELECT, ONE, "ranks += tl.sum", "ranks = tl.sum", several_tiles),
]
CASES = sorted({(op, case) for op, *_, case in MUTANTS}, key=str)
NAMES = [f"{case.__name__}-{number}" for number, (*_, case) in enumerate(MUTANTS)]


@pytest.mark.parametrize(("op", "case"), CASES, ids=lambda x: getattr(x, "__name__", x))
def test_the_kernel_passes(tmp_path, op, case):
    """And stays inside its tensors, and no program reads what another writes without waiting for it."""
    with Meter() as meter:
        case(mutant(tmp_path, op))
    assert not meter.races


@pytest.mark.parametrize(("op", "file", "old", "new", "case"), MUTANTS, ids=NAMES)
def test_a_planted_bug_is_caught(request, tmp_path, op, file, old, new, case):
    if MUTANTS.index((op, file, old, new, case)) % 3 and not request.config.getoption("all_mutants"):
        pytest.skip("left to make mutants")
    run = mutant(tmp_path, op, file, old, new)
    with Meter() as meter, pytest.raises((AssertionError, OverflowError, OutOfBounds)):
        case(run)
        assert not meter.races
