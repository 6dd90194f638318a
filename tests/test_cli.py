import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from tts_kernels import _ext, assets, cli
from tts_kernels.problems import read_problems

if _ext.why_not_native():
    pytest.skip("the native extension is not built", allow_module_level=True)


@pytest.fixture(autouse=True)
def plain_console(monkeypatch):
    monkeypatch.setattr(cli, "console", Console(width=200, force_terminal=False))


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments])


def test_search_writes_a_result_per_problem(tmp_path):
    out = tmp_path / "results.jsonl"
    done = run("search", "--strategy", "beam:width=4", "--budget", 8, "--limit", 6, "--out", out)
    assert done.exit_code == 0, done.output
    results = [json.loads(line) for line in out.read_text().splitlines()]
    assert sorted(r["id"] for r in results) == [p.id for p in read_problems(assets.PROBLEMS, 6)]
    assert all(len(r["candidates"]) == 8 and r["error"] is None for r in results)
    share = sum(r["correct"] for r in results) / 6
    assert f"{share:.1%}" in done.output
    assert "attention bytes" in done.output and "every path by itself" in done.output and "peak pages" in done.output


def test_results_are_not_overwritten(tmp_path):
    out = tmp_path / "results.jsonl"
    out.write_text("kept\n")
    done = run("search", "--limit", 1, "--out", out)
    assert isinstance(done.exception, ValueError) and "exists already" in str(done.exception)
    assert out.read_text() == "kept\n"


def test_info_says_what_runs_and_why_not():
    status = json.loads(run("info", "--json").output)["ops"]
    assert status["tree_attention"]["cpu"]["native"] is None
    assert "only in the interpreter" in status["tree_attention"]["cpu"]["triton"]
    assert run("info").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strategy", "dfs"], "strategy must be one of greedy, best-of-n, beam, lookahead"),
        (["--budget", "0"], "Budget: amount must be finite and at least 1, got 0"),
        (["--budget", "10", "--strategy", "beam:width=4"], "beam: budget must be a multiple of width 4, got 10"),
        (["--strategy", "best-of-n:width=4"], "best-of-n: options must be NAME=VALUE of max_depth, got 'width=4'"),
        (["--temperature", "-1"], "temperature must be in"),
        (["--dtype", "int8"], "--dtype must be float32, bfloat16 or float16, got 'int8'"),
        (["--device", "abacus"], "--device abacus: "),
        (["--model", "nowhere/at/all"], "--model nowhere/at/all:"),
        (["--scorer", "prm"], "spec must be one of logprob, gsm8k, math, ifeval or FAMILY:PATH_OR_ID of prm, genrm"),
        (["--scorer", "prm:/nowhere"], "prm: no model can be read from '/nowhere'"),
        (["--aggregate", "sum"], "aggregate must be one of last, min, prod, mean, model, got 'sum'"),
        (["--backend", "triton", "--limit", "1"], "cannot run here"),
        (["--select", "all", "--limit", "1"], "select must be one of"),
    ],
)
def test_bad_options_say_what_was_wanted(arguments, message):
    done = run("search", *arguments)
    assert done.exit_code != 0
    assert message in str(done.exception)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"problem": "1"}\n{"problem": 2}\n', "line 2: must have the problem's text"),
        ('{"problem": "1"}\n\n{"problem"\n', "line 3: is not JSON"),
        ("[1]\n", "line 1: must be a JSON object, got list"),
        ('{"id": "a", "problem": "1"}\n{"id": "a", "problem": "2"}\n', "line 2: id 'a' stands on line 1 already"),
        ("", "holds no problem"),
    ],
)
def test_problem_files_name_the_line(tmp_path, text, message):
    path = tmp_path / "problems.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_problems(path)
    with pytest.raises(ValueError, match="cannot be read"):
        read_problems(tmp_path / "absent.jsonl")


def test_problem_files_of_the_field(tmp_path):
    path = tmp_path / "problems.jsonl"
    path.write_text(
        '{"question": "2+2?", "answer": "2+2=4\\n#### 4"}\n{"unique_id": "m/1", "problem": "x", "answer": "7"}\n'
    )
    first, second = read_problems(path)
    assert (first.id, first.prompt, first.answer) == ("1", "2+2?", "4")
    assert (second.id, second.answer) == ("m/1", "7")
