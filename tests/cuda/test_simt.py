"""The shim that runs CUDA kernels on the host: small kernels of simt/probes.cu that keep or break one rule each."""

import ctypes
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from execution import Allocation, KernelError, Shim
from ptx.probing import aligned, check_conversions
from simt_build import SIMT, build


class Params(ctypes.Structure):
    _fields_ = (
        ("inputs", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("counter", ctypes.c_void_p),
        ("n", ctypes.c_int64),
    )


@pytest.fixture(scope="module")
def shim():
    return Shim(build([SIMT / "probes.cu"], ops=False))


@pytest.fixture
def run(shim):
    """run(name, inputs, out, n=..., ...): launch a probe; the counts of the launch."""

    def launch(name, inputs, out, *, n=0, counter=0, blocks=1, threads=32, shared=0, mode="late", seed=0):
        counters = np.array([counter], np.int32)
        tensors = {"inputs": inputs, "out": out, "counter": counters}
        shim.configure(mode, seed, True, 90)
        shim.allow(
            [Allocation(k.encode(), x.ctypes.data, x.ctypes.data + x.nbytes, k != "inputs") for k, x in tensors.items()]
        )
        params = Params(inputs.ctypes.data, out.ctypes.data, counters.ctypes.data, n)
        if getattr(shim.c, f"probe_{name}")(ctypes.byref(params), blocks, threads, shared) != 0:
            raise KernelError(shim.error())
        (counts,) = shim.launches(list(tensors))
        return counts

    yield launch
    shim.allow(None)


# Runs with the sanitizers' libraries loaded first. Arguments: library, probe, threads, bytes of shared memory.
SANITIZED = """
import ctypes, sys
numbers = (ctypes.c_float * 1024)()
params = (ctypes.c_int64 * 4)(ctypes.addressof(numbers), ctypes.addressof(numbers) + 2048, ctypes.addressof(numbers), 1)
probe = getattr(ctypes.CDLL(sys.argv[1]), "probe_" + sys.argv[2])
sys.exit(probe(params, 3, int(sys.argv[3]), int(sys.argv[4])))
"""


@pytest.mark.parametrize(
    ("probe", "threads", "message"), [("last_done", 64, ""), ("strided", 512, "heap-buffer-overflow")]
)
def test_address_sanitizer(probe, threads, message):
    library = build([SIMT / "probes.cu"], ops=False, sanitize="address,undefined")
    names = ("libasan.so", "libubsan.so")
    paths = [subprocess.check_output(["g++", f"-print-file-name={name}"], text=True).strip() for name in names]
    environment = {**os.environ, "LD_PRELOAD": " ".join(paths), "ASAN_OPTIONS": "detect_leaks=0"}
    command = [sys.executable, "-c", SANITIZED, str(library), probe, str(threads), "4"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode == 0) == (message == ""), done.stderr
    assert message in done.stderr


@pytest.mark.parametrize("mode", ["late", "early"])
@pytest.mark.parametrize(
    ("probe", "options", "message"),
    [
        ("strided", {"n": 5}, "thread 13: load of 4 bytes at +260 of inputs, which has 256"),
        ("strided", {"n": -1}, "thread 1: load of 4 bytes at -4 of inputs"),
        ("strided", {"n": 1 << 40}, "which is no memory of this launch"),
        ("strided", {"n": 0, "threads": 96}, "thread 64: store of 4 bytes at +256 of out"),
        ("wide", {"n": 4}, "thread 0: misaligned load of 16 bytes"),
        ("spoil_input", {}, "store of 4 bytes to inputs, an input"),
        (
            "copy",
            {"n": 0, "threads": 16, "shared": 256},
            "+0 while the copy that thread 0 started is under way",
        ),
        ("copy", {"n": 1, "threads": 16, "shared": 255}, "thread 15: store of 16 bytes at +240 of shared memory"),
        ("copy", {"n": 1, "threads": 32, "shared": 512}, "thread 16: load of 16 bytes at +256 of inputs"),
        (
            "refill",
            {"n": 0, "threads": 16, "shared": 256},
            "load at +240 of shared memory, which thread 15 wrote",
        ),
        (
            "neighbour",
            {"n": 1, "shared": 64},
            "race: store at +0 of shared memory, which thread 31 read",
        ),
        ("neighbour", {"n": 32, "threads": 64, "counter": 1, "shared": 128}, "which thread 32 read"),
        ("halves", {"n": 16, "shared": 128}, "reads lane 16"),
        ("unwritten", {"n": 0, "shared": 128}, "uninitialised load of shared memory at +0"),
        ("unwritten", {"n": 1, "shared": 512}, "uninitialised load of shared memory at +0"),
        ("unwritten", {"n": 1}, "load of 16 bytes at +0 of shared memory, which has 0"),
        ("divergent", {"n": 0}, "divergent: lane 0 is at __shfl_xor_sync with mask 0xffffffff, lane 16 is at __ballot"),
        ("divergent", {"n": 1}, "divergent"),
        ("divergent", {"n": 2}, "but lane 5 has exited"),
        ("divergent", {"n": 3}, "deadlock: thread 0 waits at __syncwarp for lane 1; thread 1 waits at __syncthreads"),
        ("undefined", {"n": 0, "counter": 30}, "thread 0: integer overflow at probes.cu:"),
        ("undefined", {"n": 1, "counter": 30}, "thread 0: shift by a negative number or too many bits"),
        ("undefined", {"n": 2, "counter": 30}, "thread 0: conversion to an integer that cannot hold the number"),
        ("strided", {"threads": 1025}, "threads per block must be 1 to 1024"),
        ("strided", {"blocks": 0}, "the grid is empty"),
        ("strided", {"shared": 227 * 1024 + 1}, "more shared memory than the device has"),
    ],
)
def test_broken_rule(run, probe, options, message, mode):
    inputs, out = aligned(64), aligned(64)
    with pytest.raises(KernelError, match=f"^{probe}_kernel.*") as caught:
        run(probe, inputs, out, mode=mode, **options)
    assert message in str(caught.value)


def test_abandoned_launch_leaves_nothing_behind(run):
    inputs, out = aligned(64), aligned(64)
    for _ in range(3):
        with pytest.raises(KernelError):
            run("divergent", inputs, out, n=3)
        run("copy", inputs, out, n=1, threads=16, shared=256)
        assert (out.reshape(16, 4) == inputs.reshape(16, 4)[::-1]).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("mode", ["late", "early"])
@pytest.mark.parametrize(
    ("probe", "options"),
    [
        ("copy", {"n": 1, "threads": 16, "shared": 256}),
        ("refill", {"n": 1, "threads": 16, "shared": 256}),
        ("neighbour", {"n": 1, "counter": 1, "shared": 64}),
        ("neighbour", {"n": 33, "threads": 64, "counter": 2, "shared": 128}),
        ("halves", {"n": 8, "threads": 64, "shared": 256}),
        ("divergent", {"n": 4}),
    ],
)
def test_kept_rule(run, probe, options, mode, seed):
    assert run(probe, aligned(64), aligned(64), mode=mode, seed=seed, **options).races == 0


def test_kernel_results(run):
    out = aligned(64)
    run("neighbour", aligned(64), out, n=33, counter=2, threads=64, shared=128)
    assert (out == (np.arange(64) + 33) % 64).all()
    run("halves", aligned(64), out, n=8, threads=64, shared=256)
    assert (out == (np.arange(64) ^ 1) + (np.arange(64) % 32 ^ 8) + np.arange(64) // 32 * 32).all()


@pytest.mark.parametrize(("mode", "first", "second"), [("early", 1, 2), ("late", 101, 102)])
def test_when_copies_land(run, mode, first, second):
    out = aligned(8)
    run("landing", aligned(1), out, threads=1, shared=12, mode=mode)
    assert out[4:7].tolist() == [first, second, 0]


def test_order_of_threads(run):
    orders = {}
    for seed in (0, 1, 2):
        out = aligned(64)
        run("order", aligned(1), out, threads=64, seed=seed)
        orders[seed] = out.tolist()
        assert sorted(orders[seed]) == list(range(64))
    assert orders[0] == sorted(orders[0])
    assert orders[0] != orders[1] != orders[2]


@pytest.mark.parametrize(("n", "sectors"), [(0, 1), (1, 4), (2, 8), (8, 32), (9, 32)])
def test_sectors(run, n, sectors):
    counts = run("strided", aligned(640), aligned(64), n=n, blocks=2)
    loads = counts.tensors["inputs"]
    assert (loads.load_requests, loads.load_bytes, loads.load_sectors) == (2, 256, 2 * sectors)
    assert counts.tensors["out"].store_sectors == 8


def test_wide_accesses(run):
    counts = run("wide", aligned(256), aligned(256), threads=64)
    for traffic, loads, stores in ((counts.tensors["inputs"], 2, 0), (counts.tensors["out"], 0, 2)):
        assert (traffic.load_requests, traffic.store_requests, traffic.wide_requests) == (loads, stores, 2)
        assert traffic.load_sectors + traffic.store_sectors == 32


@pytest.mark.parametrize(("n", "wavefronts"), [(1, 1), (2, 2), (3, 1), (16, 16), (32, 32), (33, 1)])
def test_banks_of_words(run, n, wavefronts):
    plain = run("banks", aligned(1), aligned(1), n=n, shared=8192).shared["plain"]
    assert (plain.requests, plain.wavefronts, plain.ideal) == (1, wavefronts, 1)


@pytest.mark.parametrize("swizzled", [0, 1])
@pytest.mark.parametrize("transposed", [False, True])
def test_matrices(run, transposed, swizzled):
    rows = aligned(32 * 64, np.uint16)
    out = aligned(8 * 4 * 32, np.uint32)
    name = "matrices_transposed" if transposed else "matrices"
    counts = run(name, rows, out, n=swizzled, shared=4096)
    # [column, matrix, row, element], as lane l holds elements l % 4 * 2 and the next of row l // 4.
    wanted = rows.reshape(4, 8, 8, 8).transpose(2, 0, 1, 3)
    wanted = wanted.transpose(0, 1, 3, 2) if transposed else wanted
    assert (out.view(np.uint16).reshape(8, 4, 8, 8) == wanted).all()
    matrix, copied = counts.shared["matrix"], counts.shared["copied"]
    assert (matrix.requests, matrix.ideal) == (8, 32)
    assert matrix.conflicts == (0 if swizzled else 8 * 4 * 7)
    # A copy of whole rows of 128 bytes fills all banks either way.
    assert (copied.requests, copied.wavefronts, copied.conflicts) == (8, 32, 0)


@pytest.mark.parametrize(("half", "dtype"), [(0, torch.bfloat16), (1, torch.float16)])
def test_multiply(run, half, dtype):
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn(rows, 16, generator=generator).to(dtype) for rows in (16, 8))
    c = torch.randn(16, 8, generator=generator)
    operands, sums = torch.cat((a, b)).view(torch.int16).numpy(), c.clone().numpy()
    run("multiply", operands, sums, n=half)
    assert (torch.from_numpy(sums) == (a.double() @ b.double().T + c.double()).float()).all()


def test_conversions(run):
    special = [0.0, -0.0, np.inf, -np.inf, 65504, 65519.99, 65520, -65520, 2**-24, 2**-25, 3 * 2**-25, -126.0, -126.5]
    every_half = np.arange(65536, dtype=np.uint16).view(np.float16).astype(np.float32)
    rng = np.random.default_rng(0)
    spread = (rng.standard_normal(4096) * 2.0 ** rng.integers(-30, 20, 4096)).astype(np.float32)
    finite = every_half[~np.isnan(every_half)]
    x = np.concatenate((np.array(special, np.float32), finite, spread))
    out = aligned(4 * len(x), np.uint32)
    run("convert", x, out, n=len(x), blocks=len(x) // 256 + 1, threads=256)
    check_conversions(x, out)


@pytest.mark.parametrize("seed", [0, 3])
def test_last_block_done(run, seed):
    out = aligned(9)
    counts = run("last_done", aligned(1), out, blocks=8, threads=64, shared=4, seed=seed)
    assert out[0] == sum(range(8 * 64))
    assert counts.tensors["counter"].atomics == 8
    assert counts.tensors["out"].load_requests == 8
