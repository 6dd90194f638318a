"""Tests of the tests: each planted bug must turn a test red in both ways of running the CUDA kernels."""

import shutil
import subprocess
import sys

import pytest
from mutants import ATTENTION, CONFLICTS, MUTANTS, ROOT, SINKS, SMALL, SMALL_HOPPER, TWICE


def outcome(test, mode, overlays):
    """What pytest said in a process of its own: its status is 0 when all passed, 1 when some did not."""
    if mode == "ptx" and shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed")
    file, chosen = test
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", file, "-k", chosen]
    command += ["--cuda-sources", mode, "--cuda-overlay", ":".join(map(str, overlays))]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("mode", ["late", "ptx"])
@pytest.mark.parametrize("test", sorted({ATTENTION, SINKS, CONFLICTS, TWICE}), ids=str)
def test_without_a_bug_they_pass(request, test, mode):
    if test != ATTENTION and not request.config.getoption("all_mutants"):
        pytest.skip("left to make mutants")
    done = outcome(test, mode, [SMALL])
    assert done.returncode == 0, done.stdout


def test_without_a_bug_warpgroups_pass():
    done = outcome(ATTENTION, "late", [SMALL_HOPPER, SMALL])
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("mode", ["late", "ptx"])
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_is_noticed(request, mutant, mode):
    # One of them through PTX as well, to see that it is noticed there.
    chosen = mutant.always and (mode == "late" or mutant.name == next(each for each in MUTANTS if each.always).name)
    if not chosen and not request.config.getoption("all_mutants"):
        pytest.skip("left to make mutants")
    if mode == "ptx" and mutant.warpgroups:
        pytest.skip("the interpreter of PTX has no products of warpgroups")
    done = outcome(mutant.test, mode, [mutant.overlay(), *([SMALL_HOPPER] if mutant.warpgroups else []), SMALL])
    assert done.returncode == 1, done.stdout + done.stderr
