"""The benchmark of the searches: a run that is killed goes on and ends with the same file."""

import sys
from pathlib import Path

import pytest
from rich.progress import Progress

from tts_kernels import _ext, assets
from tts_kernels.problems import read_problems

# Behind everything else: names of benchmarks must not hide those of tests.
sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
import bench_search
from bench_search import Bench, Cell

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)


class Killed(BaseException):
    pass


@pytest.mark.parametrize("cell", [Cell("beam:width=2", 4), Cell("rebase", 4, aggregate="last")], ids=lambda c: c.name)
def test_a_run_that_was_killed_ends_with_the_same_file(tmp_path, monkeypatch, cell):
    problems = read_problems(assets.SEARCH_PROBLEMS, 9)
    Bench(problems, tmp_path / "whole", 64).run(cell, Progress(disable=True))
    whole = (tmp_path / "whole" / f"{cell.name}.jsonl").read_bytes()
    assert whole.count(b"\n") == 9

    outcome, seen = bench_search.outcome, []

    def killed_at_the_third(result):
        if len(seen) == 3:
            raise Killed
        seen.append(result)
        return outcome(result)

    bench = Bench(problems, tmp_path / "torn", 8)
    monkeypatch.setattr(bench_search, "outcome", killed_at_the_third)
    with pytest.raises(Killed):
        bench.run(cell, Progress(disable=True))
    part = tmp_path / "torn" / f"{cell.name}.part"
    # Killed while a line was written.
    part.write_text(part.read_text()[:-20])
    monkeypatch.setattr(bench_search, "outcome", outcome)
    bench.run(cell, Progress(disable=True))
    assert (tmp_path / "torn" / f"{cell.name}.jsonl").read_bytes() == whole and not part.exists()
    # Nothing is searched again where all is there; more problems are added to the others.
    monkeypatch.setattr(bench_search, "outcome", None)
    bench.run(cell, Progress(disable=True))
