"""The interpreter of PTX: what it computes and each number that it counts. Its rules are in test_ptx_rules.py."""

import ctypes
import shutil
import struct

import numpy as np
import pytest
import torch
from ptx import Allocation, Module, PtxError, compile_ptx, executor_callback
from ptx.probing import PROBES, aligned, check_conversions, probes

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


@pytest.fixture(scope="module")
def run():
    return probes().run


def spread(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(1000) * 2.0 ** rng.integers(-20, 6, 1000)
    return np.concatenate(([1.0, 0.5, -0.5, 2.5, -2.5, 1e-3, 20.0, -20.0], x)).astype(dtype)


FLOATS = [
    np.exp, lambda x: np.log(abs(x)), np.tanh, np.exp2, lambda x: np.log2(abs(x)), lambda x: np.sqrt(abs(x)),
    lambda x: 1 / x, lambda x: x / 3, lambda x: x * x + x, np.floor, np.rint, np.trunc, lambda x: np.minimum(x, 0.5),
    lambda x: np.maximum(x, 0.5), lambda x: np.log1p(abs(x)), lambda x: 1 / np.sqrt(abs(x)),
    lambda x: np.copysign(2.0, x), np.ceil, lambda x: x / 3, abs,
]  # fmt: skip
DOUBLES = [
    np.exp, lambda x: np.log(abs(x)), np.tanh, lambda x: 1 / x, lambda x: np.sqrt(abs(x)), np.floor,
    lambda x: x * x + x, np.expm1, lambda x: np.log1p(abs(x)), np.rint, lambda x: np.minimum(x, 0.25), np.trunc,
    np.exp2, lambda x: 5 / abs(x),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "dtype", "functions", "wide"),
    [("float", np.float32, FLOATS, np.float64), ("double", np.float64, DOUBLES, np.longdouble)],
)
def test_functions(run, name, dtype, functions, wide):
    x = spread(dtype)
    out = aligned(len(functions) * len(x), dtype)
    run(name, x, out, n=len(x), blocks=len(x) // 128 + 1, threads=128)
    for got, function in zip(out.reshape(len(functions), -1), functions, strict=True):
        with np.errstate(over="ignore"):
            wanted = np.array(function(x.astype(wide)), dtype)
        # Cancellation in x * x + x: absolute, of the size of x.
        np.testing.assert_allclose(got, wanted, rtol=4 * np.finfo(dtype).eps, atol=1e-45)


@pytest.mark.parametrize(("argument", "dtype"), [("i", np.int32), ("j", np.uint32), ("l", np.int64)])
def test_integers(run, argument, dtype):
    rng = np.random.default_rng(0)
    info = np.iinfo(dtype)
    pairs = rng.integers(info.min, info.max, (64, 2), dtype) >> rng.integers(0, info.bits - 1, (64, 2)).astype(dtype)
    pairs[:, 1] |= 1
    out = aligned(9 * 64, dtype)
    run(f"integer<{argument}>", pairs, out, n=64, threads=64)
    a, b = pairs.T
    quotient = (np.sign(a.astype(object) * b) * (abs(a.astype(object)) // abs(b.astype(object)))).astype(dtype)
    with np.errstate(over="ignore"):
        wanted = [quotient, a - quotient * b, a * b, a >> 3, a << 5, a & b, a ^ ~b, np.minimum(a, b), np.maximum(a, b)]
    assert (out.reshape(9, 64) == np.array(wanted)).all()


def test_bits(run):
    pairs = np.random.default_rng(0).integers(1, 2**32, (64, 2), np.uint32)
    out = aligned(10 * 64, np.uint32)
    run("bits", pairs, out, n=64, threads=64)
    for got, (a, b) in zip(out.reshape(10, 64).T.tolist(), pairs.tolist(), strict=True):
        both = b << 32 | a
        byte = [both >> 8 * i & 255 for i in range(8)]
        wanted = [a.bit_count(), 32 - a.bit_length(), (a & -a).bit_length(), int(f"{a:032b}"[::-1], 2), a * b >> 32]
        wanted += [byte[5] | byte[2] << 8 | byte[1] << 16 | byte[6] << 24, (both << 7) >> 32, both // 1000003 >> 3]
        wanted += [64 - (a << 20).bit_length(), a & b | ~a & 0xF0F0F0F0]
        assert got == [value & 0xFFFFFFFF for value in wanted]


def is_rounded(got, exact, up):
    """Whether got is the nearest float32 not below, or not above, exact."""
    sign = 1 if up else -1
    neighbours = np.nextafter(got, np.float32(-sign * np.inf))
    return (sign * got.astype(np.float64) >= sign * exact).all() and (sign * neighbours < sign * exact).all()


def test_instructions(run):
    pairs = np.random.default_rng(0).integers(1, 2**32, (32, 2), np.uint32)
    out = aligned(18 * 32, np.uint32)
    run("instructions", pairs, out)
    a, b = pairs.T.astype(np.int64)
    lane = np.arange(32)
    field, mask = a >> 5 & 511, 127 << 4
    truths = [i for i in range(8) if 0xD8 >> i & 1]
    by_table = sum((a if i & 4 else ~a) & (b if i & 2 else ~b) & (lane if i & 1 else ~lane) for i in truths)
    last_bits = [int(x).bit_length() - 1 for x in a]
    wanted = [field, np.where(field < 256, field, field - 512), b & ~mask | a << 4 & mask, last_bits, by_table]
    wanted += [a + b, a + (a + b >> 32), a - b, a - (a < b)]
    wanted += [(b << 32 | a) >> lane, abs(a - b) + 7, [a.min()] * 32, 100 + 100 * (a & 1)]
    got = out.reshape(18, 32)
    assert (got[:13] == np.array(wanted) & 2**32 - 1).all()
    down, up, sum_down, with_nan, other = got[13:].view(np.float32)
    x, y = a.astype(np.uint32).view(np.int32).astype(np.float32), b.astype(np.float32)
    assert is_rounded(down, a / 3, up=False)
    assert is_rounded(up, a / 3, up=True)
    assert is_rounded(sum_down, x.astype(np.float64) + y, up=False)
    assert np.isnan(with_nan).all()
    assert (other == x).all()


def test_local_memory(run):
    x, out = aligned(32, np.int32), aligned(32, np.int32)
    for n in (0, 1):
        counts = run("local", x, out, n=n)
        assert out.tolist() == ([-1] * 32 if n == 0 else [v + t % 8 for t, v in enumerate(x)])
        assert counts.local >= 10 * 32 // 4


@pytest.mark.parametrize("seed", [0, 1])
def test_paths_that_part_meet_again(run, seed):
    x = np.random.default_rng(seed).integers(0, 100, 64).astype(np.int32)
    out = aligned(64, np.int32)
    run("switch", x, out, threads=64, seed=seed)
    paths = [lambda x, t: 3 * x, lambda x, t: sum(i ^ t for i in range(x)), lambda x, t: x - 100,
             lambda x, t: x // 5, lambda x, t: int(first), lambda x, t: -x, lambda x, t: 12345]  # fmt: skip
    first = x[0]
    assert out.tolist() == [paths[v % 7](int(v), t) + x[t ^ 1] for t, v in enumerate(x)]


def test_warp_operations(run):
    x = np.random.default_rng(0).integers(1, 99, 32).astype(np.int32)
    out = aligned(12 * 32, np.int32)
    run("warp", x, out, n=32)
    lane = np.arange(32)
    bits = [sum(1 << int(j) for j in lane if x[j] % 3 == v % 3) for v in x]
    wanted = [x[[5] * 32], x[np.where(lane < 3, lane, lane - 3)], x[np.where(lane > 29, lane, lane + 2)], x[lane ^ 7],
              x[lane // 8 * 8 + 1], [sum(1 << int(j) for j in lane if x[j] > 50)] * 32, [(x > 98).any()] * 32,
              [(x > 1).all()] * 32, [x.sum()] * 32, bits, [(x > 50).sum()] * 32, [(x > 97).any()] * 32]  # fmt: skip
    assert (out.reshape(12, 32).astype(np.uint32) == np.array(wanted).astype(np.uint32)).all()


@pytest.mark.parametrize("seed", [0, 1])
def test_atomics(run, seed):
    x = np.random.default_rng(0).integers(1, 1000, 256).astype(np.int32)
    out = aligned(12, np.int32)
    out[:] = [0, 0, 999, 0, 0, 0, 0, 0, 0, 0, 0, 0]
    counts = run("atomics", x, out, blocks=2, threads=128, shared=8, seed=seed)
    assert out[:4].tolist() == [x.sum(), x.max(), x.min(), np.bitwise_or.reduce(1 << (x & 31))]
    assert out[4:5].view(np.float32)[0] == x.sum()
    assert out[6:8].view(np.int64)[0] == 256 << 33
    assert out[8:10].view(np.float64)[0] == x.sum() / 2
    assert out[10] == 7
    assert counts.atomics == {"out": 2 * 2 * 4 + 256 * (4 * 4 + 2 * 8)}


@pytest.mark.parametrize(("half", "dtype"), [(0, torch.bfloat16), (1, torch.float16)])
def test_multiply(run, half, dtype):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randint(-8, 9, (rows, 16), generator=generator).to(dtype) for rows in (16, 8))
    c = torch.randn(16, 8, generator=generator).round()
    operands, sums = torch.cat((a, b)).view(torch.int16).numpy(), c.clone().numpy()
    run("multiply", operands, sums, n=half)
    # Small whole numbers: no order of the sums rounds.
    assert (torch.from_numpy(sums) == a.float() @ b.float().T + c).all()


@pytest.mark.parametrize("swizzled", [0, 1])
@pytest.mark.parametrize(("argument", "transposed"), [("Lb0E", False), ("Lb1E", True)])
def test_matrices(run, argument, transposed, swizzled):
    rows, out = aligned(32 * 64, np.uint16), aligned(8 * 4 * 32, np.uint32)
    counts = run(f"matrices<{argument}>", rows, out, n=swizzled, shared=4096)
    wanted = rows.reshape(4, 8, 8, 8).transpose(2, 0, 1, 3)
    wanted = wanted.transpose(0, 1, 3, 2) if transposed else wanted
    assert (out.view(np.uint16).reshape(8, 4, 8, 8) == wanted).all()
    # 8 copies and 8 loads of 4 passes; without the permutation all rows of a matrix lie in one slot.
    assert (counts.shared_requests, counts.ideal_wavefronts) == (16, 64)
    assert counts.wavefronts - counts.ideal_wavefronts == (0 if swizzled else 8 * 4 * 7)


def test_conversions(run):
    x = np.concatenate((spread(np.float32), np.array([0.0, np.inf, -np.inf, 65520, 2**-25, -126.5], np.float32)))
    out = aligned(4 * len(x), np.uint32)
    run("convert", x, out, n=len(x), blocks=len(x) // 256 + 1, threads=256)
    check_conversions(x, out)


@pytest.mark.parametrize(("mode", "first", "second"), [("early", 1, 2), ("late", 101, 102)])
def test_when_copies_land(run, mode, first, second):
    out = aligned(8)
    run("landing", aligned(1), out, threads=1, shared=12, mode=mode)
    assert out[4:7].tolist() == [first, second, 0]


def test_last_block_done(run):
    for seed in (0, 3):
        out = aligned(9)
        counts = run("last_done", aligned(1), out, blocks=8, threads=64, shared=4, seed=seed)
        assert out[0] == sum(range(8 * 64))
        assert counts.atomics == {"counter": 32}


@pytest.mark.parametrize(("n", "sectors"), [(0, 1), (1, 4), (2, 8), (8, 32), (9, 32)])
def test_sectors(run, n, sectors):
    counts = run("strided", aligned(640), aligned(64), n=n, blocks=2)
    assert (counts.loads, counts.stores) == ({"inputs": 256}, {"out": 256})
    assert (counts.requests, counts.bytes, counts.sectors) == (4, 512, 2 * sectors + 8)
    assert (counts.wide, counts.local) == (0, 0)
    assert sum(line["sectors"] for line in counts.lines.values()) == counts.sectors


def test_wide_accesses(run):
    counts = run("wide", aligned(256), aligned(256), threads=64)
    assert (counts.requests, counts.sectors, counts.wide) == (4, 64, 128)


@pytest.mark.parametrize(("n", "wavefronts"), [(1, 1), (2, 2), (3, 1), (16, 16), (32, 32), (33, 1)])
def test_banks_of_words(run, n, wavefronts):
    counts = run("banks", aligned(1), aligned(1), n=n, shared=8192)
    assert (counts.shared_requests, counts.wavefronts, counts.ideal_wavefronts) == (1, wavefronts, 1)


def test_instructions_are_counted_by_warp(run):
    counts = [run("busy", aligned(64), aligned(64), n=n, threads=64).executed for n in (10, 20, 30)]
    # Two warps, ten rounds of 16 multiply-adds and what the loop needs.
    assert counts[1] - counts[0] == counts[2] - counts[1] >= 2 * 10 * 16


def test_unknown_instruction():
    text = compile_ptx(PROBES).replace("fma.rn.f64", "fma.xx.f64").replace("popc.b32", "popc.f32")
    module = Module(text)
    for name, wrong in (("double", "fma.xx.f64"), ("bits", "popc.f32")):
        symbol, _ = probes().find(name)
        with pytest.raises(PtxError, match=f"unknown instruction: {wrong} .*at "):
            module.kernel(symbol)


def test_callback_from_c():
    inputs, out = aligned(64), aligned(64)
    known = [Allocation("inputs", inputs.ctypes.data, inputs.ctypes.data + 256, False)]
    known.append(Allocation("out", out.ctypes.data, out.ctypes.data + 128))
    symbol, module = probes().find("race")
    runner = executor_callback([module], lambda: known)
    params = struct.pack("3Q", inputs.ctypes.data, out.ctypes.data, 1)
    grid = (ctypes.c_uint32 * 3)(1, 1, 1)
    assert runner.callback(symbol.encode(), grid, 32, 128, params, len(params)) == 0
    runner.check()
    assert runner.counts[symbol].stores == {"out": 128}
    assert runner.launches == [(symbol, (1, 1, 1), 32, 128)]
    for wrong, threads, message in ((symbol, 64, r"\+128 of out"), ("nothing", 32, "nothing: in no module")):
        assert runner.callback(wrong.encode(), grid, threads, 256, params, len(params)) == 719
        with pytest.raises(PtxError, match=message):
            runner.check()
