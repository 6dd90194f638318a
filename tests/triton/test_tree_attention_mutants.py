"""Planted bugs in the kernel of tree_attention: each must make a small case fail."""

import importlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tts_kernels import _ext

if not _ext.triton_interpreted():
    pytest.skip("needs the process with TRITON_INTERPRET=1", allow_module_level=True)
pytest.importorskip("triton")

from tts_kernels.ops.tree_attention import _triton, tree_attention
from tts_kernels.ops.tree_attention._triton_tiles import Tiles
from tts_kernels.testing import assert_matches_oracle
from tts_kernels.testing.meter import Meter, OutOfBounds
from tts_kernels.testing.plans import Shape, random_case

PACKAGE = "tts_kernels.ops.tree_attention"
MODULES = ("_triton_keys", "_triton_join", "_triton_kernel")
SMALL = Shape(
    nodes=8, node_tokens=14, page_size=5, tile_rows=4, layers=3, q_heads=6, kv_heads=2, head_dim=16, row_tokens=3
)
TALL = Shape(
    nodes=2, node_tokens=30, page_size=5, tile_rows=99, layers=2, q_heads=3, kv_heads=1, head_dim=160, row_tokens=28,
    full=True,
)  # fmt: skip
# Name of the bug, module, text, and what it becomes.
BUGS = [
    ("a row sees one key less", "_triton_keys", "pos[None, :] <= row_pos[:, None]", "pos[None, :] < row_pos[:, None]"),
    ("a window one longer", "_triton_keys", "> row_pos[:, None] - window", ">= row_pos[:, None] - window"),
    ("keys in the window not loaded", "_triton_kernel", ", 0) - numbers[2]", ", 0) - numbers[2] + 1"),
    ("a key that is not there", "_triton_keys", "here &= pos <= tl.load(", "here &= pos <= 1 + tl.load("),
    ("tail pages followed", "_triton_keys", "tl.where(here, page_id, -1)", "tl.where(row_end > 0, page_id, -1)"),
    ("offset in the page", "_triton_keys", "(start + col) % PAGE_SIZE", "col % PAGE_SIZE"),
    ("position in the page", "_triton_keys", "other=0) + key % PAGE_SIZE", "other=0)"),
    ("reads of the next unit", "_triton_keys", "here = key < end", "here = key <= end"),
    ("row range of a read", "_triton_keys", " & (row[:, None] < row_end[None, :])", ""),
    ("scale lost", "_triton_keys", 'input_precision="ieee") * scale', 'input_precision="ieee")'),
    ("soft cap lost", "_triton_keys", "softcap * _tanh(score)", "softcap * score"),
    ("tanh near 0", "_triton_keys", "420.0", "42.0"),
    ("sum not faded", "_triton_keys", "total * fade + tl.sum", "total + tl.sum"),
    ("output not faded", "_triton_keys", "acc * fade[:, None], input", "acc, input"),
    ("values not masked", "_triton_keys", "v_ptr + at, mask=there, other=0.0",
     'v_ptr + at, mask=there, other=float("nan")'),
    ("scale of keys lost", "_triton_keys", "tl.load(k_scales_ptr + slab, mask=here, other=0.0)[None, :]", "1.0"),
    ("scale of values lost", "_triton_keys", "tl.load(v_scales_ptr + slab, mask=here, other=0.0)[None, :]", "1.0"),
    ("heads interleaved", "_triton_kernel", "tl.program_id(1) * GROUP + lane % GROUP",
     "tl.program_id(1) + lane % GROUP * tl.num_programs(1)"),
    ("slot of a tile", "_triton_kernel", "slot + tile * ROWS", "slot"),
    ("own slot", "_triton_kernel", "slots = slot + lane // GROUP", "slots = slot + lane // GROUP + 1"),
    ("own part not rounded", "_triton_kernel", "_join_columns(out, 0", "_join_columns(acc * factor[:, None], 0"),
    ("sink in every part", "_triton_kernel", "lse = tl.where(direct, full_lse, lse)", "lse = full_lse"),
    ("sink not in the output", "_triton_join", "factor *= share", "pass"),
    ("first part again", "_triton_join", "slots_ptr + part + 1", "slots_ptr + part"),
    ("joined sum not faded", "_triton_join", "tl.fma(total, fade, weight)", "total + weight"),
    ("joined output not faded", "_triton_join", "out.shape), acc * fade[:, None])", "out.shape), acc)"),
    ("second half of the columns", "_triton_join", "first_dim + HALF", "first_dim"),
    ("counter not reset", "_triton_join", "tl.store(counter_ptr, 0, mask=mine & once)", "pass"),
    ("joined too early", "_triton_join", "complete = _for_heads(once & (others == count - 1)",
     "complete = _for_heads(once & (others == count - 2)"),
    ("heads of other rows", "_triton_join", "lane - lane % GROUP", "lane"),
    ("no barrier before the release", "_triton_join", "tl.debug_barrier()\n    others", "others"),
    ("parts not released", "_triton_join", 'sem="acq_rel"', 'sem="acquire"'),
    ("parts not acquired", "_triton_join", 'sem="acquire"', 'sem="relaxed"'),
]  # fmt: skip
# Where programs run one after the other the last one always finds the other parts there. With this it does not look.
BLIND = ("complete = _for_heads(once & (others == count - 1)", "complete = _for_heads(once & (others < 0)")


@pytest.fixture(autouse=True)
def few_keys(monkeypatch):
    """Tiles of few keys, so that small cases have several."""
    monkeypatch.setattr(_triton, "tallest", lambda *_: Tiles(64, 16, 16, 8, 3))


@pytest.fixture(scope="module")
def cases():
    """Options, order in which the units run, and a random case with its references."""
    made = []
    for shape, dtype, stored, options in (
        (SMALL, torch.float32, None, {"window": 7}),
        (SMALL, torch.bfloat16, None, {"sinks": torch.tensor([4.0, -2.0, 1.0, 0.0, 8.0, 3.0])}),
        (SMALL, torch.float16, torch.int8, {"softcap": 3.0}),
        (TALL, torch.bfloat16, None, {}),
    ):
        case = random_case(shape, dtype, "cpu", seed=2, stored=stored)
        scales = {"k_scales": case.k_scales, "v_scales": case.v_scales}
        args = (case.q, case.k_pages, case.v_pages, case.plan)
        same = tree_attention(*args, return_lse=True, backend="reference", **options, **scales)
        made.append((case, options | scales, case.oracle(**options), same))
    return made


def first_failure(cases):
    """What is wrong with the kernel, or None."""
    for case, options, oracle, same in cases:
        results = []
        for order in (slice(None), range(len(case.plan.units) - 1, -1, -1)):
            plan = replace(case.plan, units=case.plan.units[order], unit_reads=case.plan.unit_reads[order])
            try:
                with Meter() as meter:
                    got = tree_attention(
                        case.q, case.k_pages, case.v_pages, plan, return_lse=True, backend="triton", **options
                    )
                for pair in zip(got, oracle, same, ("out", "lse"), strict=True):
                    assert_matches_oracle(*pair)
            except (AssertionError, OutOfBounds) as error:
                return str(error)
            if meter.races:
                return str(meter.races[0])
            if any(space[-1].any() for space in plan.workspaces.values()):
                return "a counter is not zero"
            results.append(torch.cat([x.float().flatten() for x in got]))
        if not torch.equal(*results):
            return "the order of the units shows"
    return None


def plant(module, changes, folder, monkeypatch):
    """Run the kernel from copies of its modules, of which one has texts replaced."""
    folder.mkdir()
    for name in MODULES:
        source = Path(importlib.import_module(f"{PACKAGE}.{name}").__file__).read_text()
        if name == module:
            for text, becomes in changes:
                if text not in source:
                    raise ValueError(f"{name} has no {text!r}")
                source = source.replace(text, becomes)
        (folder / f"{name}.py").write_text(source.replace(f"{PACKAGE}.", f"{folder.name}."))
    monkeypatch.syspath_prepend(folder.parent)
    kernel = importlib.import_module(f"{folder.name}._triton_kernel")._tree_attention_kernel
    monkeypatch.setattr(_triton, "_tree_attention_kernel", kernel)


def test_the_kernel_itself_is_right(cases):
    assert first_failure(cases) is None


def test_joining_what_was_just_stored(cases, tmp_path, monkeypatch):
    plant("_triton_join", [BLIND], tmp_path / "blind", monkeypatch)
    assert first_failure(cases) is None


def test_a_late_join_that_is_missed_is_found(cases, tmp_path, monkeypatch):
    plant("_triton_join", [BLIND, ("complete | last", "complete")], tmp_path / "blind_bug", monkeypatch)
    assert first_failure(cases) is not None


@pytest.mark.parametrize("number", range(len(BUGS)), ids=[bug[0] for bug in BUGS])
def test_a_planted_bug_is_found(request, cases, number, tmp_path, monkeypatch):
    if number % 3 and not request.config.getoption("all_mutants"):
        pytest.skip("left to make mutants")
    _, module, text, becomes = BUGS[number]
    plant(module, [(text, becomes)], tmp_path / f"mutant_{number}", monkeypatch)
    assert first_failure(cases) is not None
