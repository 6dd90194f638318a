"""The interpreter of PTX: each rule that it holds kernels to, by kernels that keep or break it."""

import shutil

import pytest
from ptx import PtxError
from ptx.probing import aligned, probes

pytestmark = pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not installed")


@pytest.fixture(scope="module")
def run():
    return probes().run


BROKEN = [
    (
        "strided",
        {"n": 5},
        r"out of bounds: load of 4 bytes at \+260 of inputs \(256 bytes\), block .0, 0, 0., thread 13, "
        r"at shim_probes.cu:\d+: ld",
    ),
    ("strided", {"n": -1}, "load of 4 bytes at -4 of inputs"),
    ("strided", {"n": 1 << 40}, "near no allocation"),
    ("strided", {"n": 0, "threads": 96}, r"store of 4 bytes at \+256 of out .*thread 64"),
    ("wide", {"n": 4}, "misaligned: load of 16 bytes, address 4 past"),
    ("spoil_input", {}, "store to inputs, an input"),
    ("copy", {"n": 0, "threads": 16, "shared": 256, "mode": "late"}, "copy under way: load"),
    ("copy", {"n": 1, "threads": 16, "shared": 255}, r"store of 16 bytes at \+240 of shared memory .*thread 15"),
    ("copy", {"n": 1, "threads": 32, "shared": 512}, r"load of 16 bytes at \+256 of inputs"),
    ("refill", {"n": 0, "threads": 64, "shared": 1024, "size": 256}, "race: .* the other at shim_probes.cu:"),
    ("neighbour", {"n": 32, "threads": 64, "counter": 1, "shared": 128}, "race: "),
    ("race", {"n": 0, "threads": 64, "shared": 256}, "race: store of shared memory by warp . after a load by warp .,"),
    ("halves", {"n": 16, "shared": 128}, "shuffle from lane 16"),
    ("unwritten", {"n": 0, "shared": 128}, r"uninitialised: load of shared memory at \+0"),
    ("unwritten", {"n": 1, "shared": 512}, r"uninitialised: load of shared memory at \+0"),
    ("unwritten", {"n": 1}, r"out of bounds: load of 16 bytes at \+0 of shared memory \(0 bytes\)"),
    ("divergent", {"n": 0}, "wait here for others of the warp"),
    ("divergent", {"n": 1}, "wait here for others of the warp"),
    ("divergent", {"n": 2}, "names lanes that left"),
    ("divergent", {"n": 3}, "wait here for others of the warp"),
    ("stuck", {"n": 0}, "names lanes that left"),
    ("stuck", {"n": 1}, "wait here for others of the warp"),
    ("stuck", {"n": 2, "max_executed": 10_000}, "no end after 10000 instructions"),
    ("stuck", {"n": 3, "threads": 64}, "barrier 1 waits for threads that wait elsewhere"),
    ("strided", {"threads": 1025}, "cannot launch 1025 threads"),
    ("strided", {"blocks": 0}, "cannot launch"),
]  # fmt: skip


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(("probe", "options", "message"), BROKEN)
def test_broken_rule(run, probe, options, message, seed):
    size = options.get("size", 64)
    options = {name: value for name, value in options.items() if name != "size"}
    with pytest.raises(PtxError, match=message):
        run(probe, aligned(size), aligned(size), seed=seed, **options)


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("mode", ["late", "early"])
@pytest.mark.parametrize(
    ("probe", "options"),
    [
        ("copy", {"n": 1, "threads": 16, "shared": 256}),
        ("refill", {"n": 1, "threads": 64, "shared": 1024}),
        ("neighbour", {"n": 1, "counter": 1, "shared": 64}),
        ("neighbour", {"n": 33, "threads": 64, "counter": 2, "shared": 128}),
        ("race", {"n": 1, "threads": 64, "shared": 256}),
        ("halves", {"n": 8, "threads": 64, "shared": 256}),
        ("divergent", {"n": 4}),
    ],
)
def test_kept_rule(run, probe, options, mode, seed):
    run(probe, aligned(256), aligned(256), mode=mode, seed=seed, **options)
