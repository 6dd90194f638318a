import itertools
import math
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from tts_kernels.backends import why_not
from tts_kernels.ops.sample_children import sample_children
from tts_kernels.ops.sample_children._reference import philox
from tts_kernels.testing import assert_matches_oracle, peaky

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
# Known answers of Random123, the implementation of the paper's authors: counter, key, words.
KNOWN = [
    ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
]


def make_rows(rows, vocab, dtype=torch.float32, device="cpu", seed=0, quantum=0.0, max_width=5):
    """Logits with -inf in them, any 64-bit keys, any positions, and widths of which some are 0."""
    generator = torch.Generator().manual_seed(seed)
    logits = peaky(rows, vocab, generator=generator)
    if quantum:
        logits = (logits / quantum).round() * quantum
    masked = torch.rand(rows, vocab, generator=generator) < 0.1
    if rows and vocab:
        masked[torch.arange(rows), torch.randint(vocab, (rows,), generator=generator)] = False
    logits = logits.masked_fill(masked, -torch.inf).to(dtype)
    keys = torch.randint(-(2**63), 2**63 - 1, (rows,), generator=generator)
    positions = torch.randint(0, 2**31 - 1, (rows,), generator=generator, dtype=torch.int32)
    widths = torch.randint(0, max_width + 1, (rows,), generator=generator, dtype=torch.int32)
    return tuple(x.to(device) for x in (logits, keys, positions, widths))


def sized(backend, device, full, small):
    """Triton's interpreter takes milliseconds for each program of a kernel, and every independent draw is one."""
    return small if backend == "triton" and torch.device(device).type == "cpu" else full


def one_row(logits, width, device="cpu", **options):
    """Tokens that one row with these logits draws, as a list."""
    width = sized(options.get("backend"), device, width, min(width, 60))
    numbers = {"dtype": torch.int32, "device": device}
    row = torch.as_tensor(logits, dtype=torch.float32, device=device)[None]
    place = torch.tensor([-7], device=device), torch.tensor([3], **numbers), torch.tensor([width], **numbers)
    return sample_children(row, *place, **options)[0].tolist()


def assert_frequencies(counts, probabilities):
    """Chi-square within five standard deviations of its mean; keys are fixed, so the result is too."""
    often = probabilities.double() * counts.sum() > 5
    counts, expected = counts[often], probabilities[often].double() / probabilities[often].sum()
    assert len(counts) > 1
    expected = expected * counts.sum()
    freedom = len(expected) - 1
    statistic = ((counts.double() - expected) ** 2 / expected).sum()
    assert statistic < freedom + 5 * math.sqrt(2 * freedom)


def check_against_reference(rows, backend, **options):
    """Same tokens as the specification, and log-probabilities right in float64's eyes."""
    logits, widths = rows[0], rows[3]
    tokens, log_probs = sample_children(*rows, backend=backend, **options)
    want_tokens, same = sample_children(*rows, backend="reference", **options)
    assert torch.equal(tokens, want_tokens), options
    owners = torch.repeat_interleave(torch.arange(len(widths), device=widths.device), widths)
    oracle = torch.log_softmax(logits.double(), -1)[owners, tokens]
    assert_matches_oracle(log_probs, oracle, same, "log_probs")


@pytest.mark.parametrize(("counter", "key", "words"), KNOWN)
def test_philox_known_answers(counter, key, words):
    low, high = (int(x, 16) for x in key.split())
    got = philox(high << 32 | low, tuple(torch.tensor([int(x, 16)]) for x in counter.split()))
    assert " ".join(f"{int(x):08x}" for x in got) == words


def run_cpp(folder, code, *flags):
    """Lines that a program with csrc on its include path prints."""
    compiler, csrc = shutil.which("c++"), Path(__file__).parents[2] / "csrc"
    if compiler is None or not csrc.is_dir():
        pytest.skip("no C++ compiler or no sources")
    (folder / "main.cpp").write_text(code)
    subprocess.run([compiler, "-std=c++17", *flags, f"-I{csrc}", "main.cpp", "-o", "main"], cwd=folder, check=True)
    return subprocess.run([folder / "main"], capture_output=True, text=True, check=True).stdout.splitlines()


def test_philox_header_known_answers(tmp_path):
    """csrc/philox.h by itself, without torch and without any other header of ours."""
    cases = ""
    for counter, key, _ in KNOWN:
        low, high = key.split()
        cases += f"{{uint32_t c[4] = {{{', '.join('0x' + x for x in counter.split())}}};"
        cases += (
            f'tts::philox4x32(0x{high}{low}u, c); std::printf("%08x %08x %08x %08x\\n", c[0], c[1], c[2], c[3]);}}\n'
        )
    for word in ("0u", "~0u"):
        cases += f'std::printf("%.17g\\n", tts::philox_uniform({word}));\n'
    *words, lowest, highest = run_cpp(tmp_path, f'#include "philox.h"\n#include <cstdio>\nint main() {{\n{cases}}}\n')
    assert words == [x for _, _, x in KNOWN]
    assert (float(lowest), float(highest)) == (2.0**-33, 1 - 2.0**-33)


def test_exp_header_is_exact_to_two_units(tmp_path):
    """csrc/cpu/exp.h over its whole range: 0 is exact, below -708 there is nothing."""
    code = """
    #include "cpu/exp.h"
    #include <cstdio>
    using namespace tts::base;
    double ours(double y) { return VecD(exp_nonpositive(VecD(y)))[0]; }
    int main() {
      for (double y = -1e-9; y > -708.0; y *= 1.0009) std::printf("%.17g %.17g\\n", y, ours(y));
      std::printf("%g %g %g %g\\n", ours(0.0), ours(-708.5), ours(-1e300), ours(-INFINITY));
    }
    """
    *points, edges = run_cpp(tmp_path, code.replace("\n    ", "\n"), "-O1", "-DTTS_ISA=base", "-include", "cmath")
    for y, got in (map(float, line.split()) for line in points):
        assert abs(got - math.exp(y)) <= 2.5 * math.ulp(math.exp(y))
    assert edges == "1 0 0 0"


@pytest.mark.parametrize("distinct", [False, True])
@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 1.7])
def test_matches_reference(backend, device, temperature, distinct):
    """All combinations of restrictions; quantised logits have many ties."""
    combinations = list(itertools.product([0, 1, 7, 10_000], [1.0, 0.9, 0.4, 0.0], [0.0, 0.05, 0.6]))
    if backend == "reference":
        # Against itself there is nothing to find but exceptions.
        combinations = combinations[::9]
    # Other ones at every temperature, four in all.
    combinations = sized(backend, device, combinations, combinations[int(10 * temperature) % 11 + distinct :: 12])
    for number, (top_k, top_p, min_p) in enumerate(combinations):
        options = {"top_k": top_k, "top_p": top_p, "min_p": min_p, "temperature": temperature, "distinct": distinct}
        for rows, vocab in sized(backend, device, [(11, 67), (11, 1031)], [(2, 67), (2, 4500)]):
            rows = make_rows(rows, vocab, device=device, seed=number, quantum=0.5 * (number % 2), max_width=9)
            check_against_reference(rows, backend, **options)


# One, odd, empty, one past every vector, one past the 4096 tokens of a part (Triton), two parts and one token, and one
# past the 1024 runs of 128 tokens of the cumulative sums (CPU).
SHAPES = [(1, 1), (0, 5), (3, 2), (5, 15), (4, 17), (6, 64), (2, 65), (2, 129), (1, 4097), (2, 8193), (3, 131_073)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shapes_and_dtypes(backend, device, shape, dtype):
    rows = make_rows(*sized(backend, device, shape, (min(shape[0], 2), min(shape[1], 12_289))), dtype, device)
    for options in ({}, {"top_k": 3, "top_p": 0.8}, {"distinct": True, "temperature": 0.7}):
        check_against_reference(rows, backend, **options)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_instruction_set(isa, dtype):
    rows = make_rows(40, 1111, dtype)
    restricted = {"top_p": 0.9, "min_p": 0.01}, {"top_k": 40, "temperature": 0.6}
    for options in ({}, *restricted, {"distinct": True}, {"temperature": 0}):
        check_against_reference(rows, "native", **options)


@pytest.mark.parametrize("kind", ["ascending", "descending", "equal", "two values", "wide", "far apart"])
@pytest.mark.parametrize("distinct", [False, True])
def test_hard_rows(backend, device, kind, distinct):
    """Orders and ties that a selection by pivot, a histogram or a running bar might not survive."""
    vocab = 3001
    ramp = torch.linspace(-8, 4, vocab)
    rows = {
        "ascending": ramp,
        "descending": ramp.flip(0),
        "equal": torch.full((vocab,), 2.5),
        "two values": torch.where(torch.arange(vocab) % 3 == 0, 1.0, 0.5),
        "wide": peaky(vocab, generator=torch.Generator().manual_seed(5)) * 1e4,
        "far apart": torch.where(torch.arange(vocab) == 1700, 1.5e38, -1.5e38),
    }
    count = sized(backend, device, 6, 1)
    _, keys, positions, widths = make_rows(count, 1, device=device, seed=2, max_width=sized(backend, device, 40, 9))
    logits = rows[kind].expand(count, vocab).to(device)
    restricted = {"top_k": 100}, {"top_p": 0.7}, {"top_k": 700, "top_p": 0.5}, {"min_p": 0.9}
    for options in ({}, *restricted, {"temperature": 1e-6}):
        check_against_reference((logits, keys, positions, widths), backend, distinct=distinct, **options)


def test_frequencies_of_independent_draws(backend, device):
    """Children of one row are as independent as those of different rows."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, -torch.inf, 1.5, 0.5, -0.5], device=device)
    keys = torch.arange(8, device=device) * 0x9E3779B97F4A7C15 % 2**62
    rows = logits.expand(8, 8), keys, torch.arange(8, device=device, dtype=torch.int32)
    widths = torch.full((8,), sized(backend, device, 2500, 50), dtype=torch.int32, device=device)
    tokens, _ = sample_children(*rows, widths, temperature=0.8, backend=backend)
    counts = torch.bincount(tokens, minlength=8)
    assert counts[4] == 0
    seen = logits > -torch.inf
    assert_frequencies(counts[seen], torch.softmax(logits / 0.8, 0)[seen])
    pairs = torch.bincount(tokens[::2] * 8 + tokens[1::2], minlength=64)
    joint = torch.outer(*[torch.softmax(logits / 0.8, 0)] * 2).flatten()
    assert_frequencies(pairs, joint)


@pytest.mark.parametrize("options", [{"top_k": 3}, {"top_p": 0.7}, {"min_p": 0.3}], ids=str)
def test_frequencies_of_restricted_draws(backend, device, options):
    """The three largest of these probabilities are the support in every case, and are renormalised."""
    probabilities = torch.tensor([0.1, 0.3, 0.05, 0.35, 0.2], device=device)
    tokens = torch.tensor(one_row(probabilities.log(), 6000, device, backend=backend, **options))
    assert set(tokens.tolist()) == {1, 3, 4}
    kept = probabilities.cpu()[[1, 3, 4]]
    assert_frequencies(torch.bincount(tokens, minlength=5)[[1, 3, 4]], kept / kept.sum())


def test_frequencies_of_distinct_draws(backend, device):
    """Ordered pairs follow Plackett-Luce: p_a * p_b / (1 - p_a)."""
    logits = torch.tensor([0.0, 1.0, -1.0, 2.0, 0.5], device=device)
    rows = sized(backend, device, 2500, 150)
    keys = torch.arange(rows, device=device)
    widths = torch.full((rows,), 2, dtype=torch.int32, device=device)
    tokens, _ = sample_children(logits.expand(rows, 5), keys, widths * 0, widths, distinct=True, backend=backend)
    first, second = tokens.view(rows, 2).cpu().T
    p = torch.softmax(logits.double().cpu(), 0)
    joint = torch.outer(p / (1 - p), p).fill_diagonal_(0).flatten()
    counts = torch.bincount(first * 5 + second, minlength=25)
    assert_frequencies(counts[joint > 0], joint[joint > 0])
    assert counts[joint == 0].sum() == 0


@pytest.mark.parametrize("options", [{}, {"top_k": 20, "top_p": 0.9}, {"distinct": True, "min_p": 0.01}], ids=str)
def test_a_row_does_not_depend_on_its_batch(backend, device, options):
    """Bitwise the same alone, in another order, and on another number of threads."""
    count, vocab = sized(backend, device, (23, 1000), (8, 5000))
    logits, keys, positions, _ = make_rows(count, vocab, device=device, seed=4)
    widths = torch.full((count,), 3, dtype=torch.int32, device=device)
    options = {**options, "backend": backend}
    tokens, log_probs = (x.view(count, 3) for x in sample_children(logits, keys, positions, widths, **options))
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1)).to(device)
    moved = sample_children(logits[order], keys[order], positions[order], widths, **options)
    assert torch.equal(moved[0].view(count, 3), tokens[order])
    assert torch.equal(moved[1].view(count, 3), log_probs[order])
    alone = sample_children(logits[7:8], keys[7:8], positions[7:8], widths[:1], **options)
    assert torch.equal(alone[0], tokens[7])
    assert torch.equal(alone[1], log_probs[7])
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 3)
    try:
        again = sample_children(logits, keys, positions, widths, **options)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again[0].view(count, 3), tokens)
    assert torch.equal(again[1].view(count, 3), log_probs)


def test_more_children_keep_the_first(backend, device):
    """Child j of a row is the same however many siblings follow it."""
    logits = make_rows(1, 500)[0][0]
    for distinct in (False, True):
        few, many = (one_row(logits, width, device, distinct=distinct, backend=backend) for width in (3, 11))
        assert few == many[:3]


def test_key_and_position_both_matter(backend, device):
    logits = torch.zeros(4, sized(backend, device, 100_000, 20_000), device=device)
    numbers = {"dtype": torch.int32, "device": device}
    keys = torch.tensor([1, 1, 1 + 2**32, 2], device=device)
    positions = torch.tensor([0, 1, 0, 0], **numbers)
    widths = torch.full((4,), 2, **numbers)
    for distinct in (False, True):
        tokens, _ = sample_children(logits, keys, positions, widths, distinct=distinct, backend=backend)
        assert len(set(tokens.tolist())) == 8


def test_distinct_children_differ_and_descend(backend, device):
    """Against Gumbel noise recomputed here from the words of the counter."""
    logits, keys, positions, _ = make_rows(5, 203, device=device, seed=9)
    widths = torch.full((5,), 20, dtype=torch.int32, device=device)
    tokens, _ = sample_children(logits, keys, positions, widths, distinct=True, temperature=0.7, backend=backend)
    tokens = tokens.view(5, 20)
    for row in range(5):
        assert len(set(tokens[row].tolist())) == 20
        block = torch.arange(203) // 4
        counter = (torch.full_like(block, int(positions[row])), block, torch.ones_like(block), torch.zeros_like(block))
        words = torch.stack(philox(int(keys[row]), counter))[torch.arange(203) % 4, torch.arange(203)]
        scores = logits[row].double().cpu() / 0.7 - torch.log(-torch.log((words.double() + 0.5) / 2**32))
        assert torch.equal(tokens[row].cpu(), torch.topk(scores, 20).indices)


def test_top_k_ties_go_to_the_lower_index(backend, device):
    assert set(one_row([1, 3, 2, 3, 2, 2], 300, device, top_k=3, backend=backend)) == {1, 3, 2}
    assert set(one_row([0.0] * 100, 500, device, top_k=7, backend=backend)) == set(range(7))
    assert set(one_row([5, 5, 5], 100, device, top_k=1, backend=backend)) == {0}
    assert set(one_row([1, 3, 2, 3, 2, 2], 300, device, top_k=3, distinct=True, backend=backend)) == {1, 3, 2}
    assert set(one_row([0, -math.inf, 0], 100, device, top_k=3, backend=backend)) == {0, 2}
    assert set(one_row([-1, -0.0, 0.0, -0.0, 0.0], 8, device, top_k=3, distinct=True, backend=backend)) == {1, 2, 3}


def test_top_p_keeps_the_fewest_that_reach_it(backend, device):
    def size(p, equal=10, **options):
        drawn = set(one_row([1.25] * equal, 400, device, top_p=p, backend=backend, **options))
        assert drawn == set(range(len(drawn)))
        return len(drawn)

    # Equal weights sum exactly, so mass p is reached exactly at p * equal tokens; 0.6 and 0.7 are exact in no format.
    assert [size(p) for p in (0.0, 0.1, 0.5, 0.6, 0.7, 0.9, 0.95, 1.0)] == [1, 1, 5, 6, 7, 9, 10, 10]
    assert size(0.5 + 1e-12, 8) == 5
    assert size(0.5, 8, top_k=4) == 2
    assert size(0.51, 8, top_k=4) == 3
    masses = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    assert set(one_row(masses, 200, device, top_p=0.7, backend=backend)) == {0, 1}
    assert set(one_row(masses, 200, device, top_p=0.76, backend=backend)) == {0, 1, 2}
    assert set(one_row(masses, 200, device, top_p=0.4, backend=backend)) == {0}


def test_min_p_is_relative_to_the_largest(backend, device):
    weights = torch.tensor([0.51, 1.0, 0.49, 0.5001, 0.001]).log()
    assert set(one_row(weights, 400, device, min_p=0.5, backend=backend)) == {0, 1, 3}
    assert set(one_row(weights, 400, device, min_p=0.5, temperature=2.0, backend=backend)) == {0, 1, 2, 3}
    assert set(one_row([0, 4, 4, 3.999], 200, device, min_p=1.0, backend=backend)) == {1, 2}
    assert set(one_row(weights, 400, device, min_p=0.5, distinct=True, backend=backend)) == {0, 1, 3}
    assert set(one_row(weights, 400, device, backend=backend, top_k=2, min_p=0.505)) == {0, 1}


def test_temperature_zero(backend, device):
    logits = [1, 7, 2, 7, -math.inf, 5]
    assert one_row(logits, 3, device, temperature=0, backend=backend) == [1, 1, 1]
    assert one_row(logits, 4, device, temperature=0, distinct=True, backend=backend) == [1, 3, 5, 2]
    assert one_row(logits, 7, device, temperature=0, distinct=True, backend=backend) == [1, 3, 5, 2, 0, 1, 3]
    assert one_row(logits, 3, device, temperature=0, distinct=True, top_k=1, backend=backend) == [1, 3, 5]


def test_distinct_repeats_in_order(backend, device):
    tokens = one_row([-math.inf, 1, 0, -math.inf, 2], 8, device, distinct=True, backend=backend)
    assert sorted(tokens[:3]) == [1, 2, 4]
    assert tokens == (tokens[:3] * 3)[:8]


def test_distinct_reaches_tokens_without_weight(backend, device):
    """exp(-2000) is zero, but such a token still comes before a masked one, and before a repetition."""
    assert set(one_row([0, -2000, -math.inf, -4000], 3, device, distinct=True, backend=backend)) == {0, 1, 3}
    assert set(one_row([0, -2000, -math.inf, -4000], 300, device, backend=backend)) == {0}


def test_strided_rows_and_unread_poison(backend, device):
    """Logits inside a NaN buffer, strided keys, positions and widths, and an unread row that is all NaN."""
    logits, keys, positions, widths = make_rows(9, 333, device=device)
    widths[4] = 0
    logits[4] = torch.nan
    expected = sample_children(logits, keys, positions, widths, backend=backend)
    around = torch.full((18, 400), torch.nan, device=device)
    around[::2, 30:363] = logits
    strided = [torch.stack([x, x - x - 1], 1)[:, 0] for x in (keys, positions, widths)]
    got = sample_children(around[::2, 30:363], *strided, total=int(widths.sum()), backend=backend)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize(("value", "printed"), [(math.nan, "nan"), (math.inf, "inf"), (-math.inf, "-inf")])
@pytest.mark.parametrize("options", [{}, {"top_p": 0.9}, {"distinct": True}, {"temperature": 0}], ids=str)
def test_a_row_with_nothing_to_draw_is_named(backend, value, printed, options):
    logits, keys, positions, widths = make_rows(4, 50)
    widths[:] = torch.tensor([2, 0, 1, 3])
    logits[2, 49] = value
    if value == -math.inf:
        logits[2] = value
    with pytest.raises(ValueError, match=f"largest logit of a row must be finite, got {printed} in row 2"):
        sample_children(logits, keys, positions, widths, backend=backend, **options)


def test_bad_input():
    logits, keys, positions, widths = make_rows(3, 20)
    rows = (logits, keys, positions, widths)
    with pytest.raises(ValueError, match=r"sample_children: keys must be \[N\], got \[2\] \(N=3 from logits\)"):
        sample_children(logits, keys[:2], positions, widths)
    with pytest.raises(TypeError, match="sample_children: keys must be int64, got int32"):
        sample_children(logits, keys.int(), positions, widths)
    with pytest.raises(TypeError, match="sample_children: widths must be int32, got int64"):
        sample_children(logits, keys, positions, widths.long())
    with pytest.raises(TypeError, match=r"sample_children: logits must be .*, got int64"):
        sample_children(logits.long(), keys, positions, widths)
    with pytest.raises(ValueError, match="sample_children: widths must be at least 0, got"):
        sample_children(logits, keys, positions, widths - 6)
    with pytest.raises(ValueError, match=rf"sample_children: total must be the sum of widths, {widths.sum()}, got 99"):
        sample_children(*rows, total=99)
    for option, value, wanted in [
        ("temperature", -1.0, "0 or at least"),
        ("temperature", math.nan, "0 or at least"),
        ("temperature", math.inf, "0 or at least"),
        ("top_k", -1, "at least 0"),
        ("top_p", 1.5, "in"),
        ("top_p", math.nan, "in"),
        ("min_p", -0.1, "in"),
    ]:
        with pytest.raises(ValueError, match=f"sample_children: {option} must be {wanted}.*, got {value}"):
            sample_children(*rows, **{option: value})
    if why_not("sample_children", "triton", "cpu") is not None:
        with pytest.raises(RuntimeError, match="sample_children: backend 'triton' cannot run here"):
            sample_children(*rows, backend="triton")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_distinct_children_far_apart_in_a_row(backend, device, dtype):
    """The best tokens lie where one thread of a block reads again and again, more of them than it holds."""
    logits, keys, positions, widths = make_rows(1, 6200, dtype, device)
    best = (torch.arange(3)[:, None] * 2048 + torch.arange(8)).flatten()
    logits[:, best] = torch.arange(24, 0, -1, dtype=dtype, device=device) + 1000
    widths[:] = 30
    for temperature in (0.0, 0.01):
        options = {"temperature": temperature, "distinct": True, "min_p": 0.0}
        check_against_reference((logits, keys, positions, widths), backend, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_distinct_children_of_a_flat_row(backend, device, dtype):
    """Noise alone decides, of many more tokens per thread than it holds."""
    logits, keys, positions, widths = make_rows(3, 9001, dtype, device)
    widths[:] = 9
    check_against_reference((torch.zeros_like(logits), keys, positions, widths), backend, distinct=True)
