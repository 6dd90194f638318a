"""The command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from transformers import AutoModelForCausalLM, AutoTokenizer

from tts_kernels import _ext, assets
from tts_kernels.compute_optimal import SearchPolicy
from tts_kernels.decoder import Decoder
from tts_kernels.problems import read_problems
from tts_kernels.report import accuracy, backend_status, info_table, summary_row, summary_table
from tts_kernels.scorers import load_scorer
from tts_kernels.search import Problem, RunStats, Sampling, SearchResult
from tts_kernels.strategies import ComputeOptimal, Strategy, make_strategy

app = typer.Typer(help="Tree-search decoding of language models.", no_args_is_help=True, add_completion=False)
console = Console()


@app.callback()
def _main() -> None:
    pass


def load_decoder(model: str, scorer: str, separator: str, dtype: str, device: str = "cpu", **options: Any) -> Decoder:
    """A decoder from the names of its parts. options: ``aggregate`` and ``backend``, and others of Decoder."""
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"--dtype must be float32, bfloat16 or float16, got {dtype!r}")
    torch_dtype = getattr(torch, dtype)
    try:
        tokenizer = AutoTokenizer.from_pretrained(model)
        policy = AutoModelForCausalLM.from_pretrained(model, dtype=torch_dtype)
    except OSError as error:
        raise ValueError(f"--model {model}: {error}") from error
    try:
        policy.to(torch.device(device))  # type: ignore[arg-type]
    except RuntimeError as error:
        raise ValueError(f"--device {device}: {str(error).splitlines()[0]}") from error
    aggregate = options.pop("aggregate")
    loaded = load_scorer(scorer, aggregate=aggregate, dtype=torch_dtype, device=device, backend=options["backend"])
    return Decoder(policy, tokenizer, scorer=loaded, separator=separator, **options)


def _with_chat(problems: list[Problem], tokenizer: Any) -> list[Problem]:
    """Problems as the first user turn of a conversation, for tokenizers that have a chat template."""
    if not getattr(tokenizer, "chat_template", None):
        return problems

    def templated(problem: Problem) -> Problem:
        turn = [{"role": "user", "content": problem.prompt}]
        ids = tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=False)
        return replace(problem, prompt=ids, question=str(problem.prompt))

    return [templated(problem) for problem in problems]


def _run(
    decoder: Decoder, problems: list[Problem], strategy: Strategy, sampling: Sampling, select: str, out: Any = None
) -> tuple[list[SearchResult], RunStats]:
    """Search with a progress bar; every result goes to ``out`` as soon as it is there."""
    stats, results = RunStats(), []
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("{task.fields[note]}"), console=console) as progress:
        task = progress.add_task(strategy.name, total=len(problems), note="")
        for result in decoder.search(problems, strategy, sampling, select=select, stats=stats):  # type: ignore[arg-type]
            results.append(result)
            if out is not None:
                out.write(json.dumps(result.to_json(), ensure_ascii=False) + "\n")
                out.flush()
            share = accuracy(results)
            progress.update(task, advance=1, note="" if share is None else f"{share:.1%} right")
    return results, stats


@app.command()
def search(
    problems: Annotated[Path, typer.Option(help="JSON Lines, one problem a line")] = assets.PROBLEMS,
    out: Annotated[Path | None, typer.Option(help="results, JSON Lines, written as problems finish")] = None,
    strategy: Annotated[str, typer.Option(help="NAME or NAME:OPTION=VALUE,..., e.g. beam:width=sqrt")] = "beam",
    budget: Annotated[str, typer.Option(help="per problem: solutions, or e.g. '20000 tokens', '3e9 flops'")] = "16",
    policy: Annotated[Path | None, typer.Option(help="JSON file that compute-optimal chooses by")] = None,
    select: Annotated[
        str, typer.Option(help="weighted, majority, best, hierarchical, guarded, knockout or league")
    ] = "weighted",
    model: Annotated[str, typer.Option(help="folder or name of a causal LM")] = str(assets.POLICY),
    scorer: Annotated[
        str, typer.Option(help="FAMILY:PATH_OR_ID, or logprob, gsm8k, math, ifeval")
    ] = f"prm:{assets.PRM}",
    aggregate: Annotated[
        str | None, typer.Option(help="last, min, prod, mean or model; else the published way")
    ] = None,
    separator: Annotated[str | None, typer.Option(help="what ends a step")] = None,
    chat: Annotated[bool, typer.Option(help="use the tokenizer's chat template where it has one")] = True,
    temperature: float = 0.8,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
    distinct: Annotated[bool, typer.Option(help="siblings start with different tokens")] = False,
    max_step_tokens: int = 256,
    max_tokens: int = 2048,
    seed: int = 0,
    limit: Annotated[int | None, typer.Option(help="only the first problems")] = None,
    dtype: str = "float32",
    device: Annotated[str, typer.Option(help="of both models, as torch names it")] = "cpu",
    backend: Annotated[str | None, typer.Option(help="reference, triton or native; else the best that runs")] = None,
    kv_bytes: Annotated[int, typer.Option(help="memory for KV, of both models together")] = 1 << 30,
    page_size: Annotated[int | None, typer.Option(help="tokens per page, else as fits both models")] = None,
    max_rows: Annotated[int, typer.Option(help="rows alive at once, over all problems")] = 1024,
    speculate: Annotated[bool, typer.Option(help="draw on while others finish their step")] = False,
) -> None:
    """Search problems with one strategy and report accuracy and cost."""
    if strategy == "greedy":
        budget, temperature = "1", 0.0
    if policy is None and strategy == ComputeOptimal.name and model == str(assets.POLICY):
        policy = assets.SEARCH_POLICY
    chosen = make_strategy(strategy, budget, None if policy is None else SearchPolicy.load(policy))
    sampling = Sampling(temperature, top_k, top_p, min_p, distinct, max_step_tokens, max_tokens, seed)
    todo = read_problems(problems, limit)
    if separator is None:
        separator = assets.SEPARATOR if model == str(assets.POLICY) else "\n\n"
    options = {
        "aggregate": aggregate,
        "backend": backend,
        "kv_bytes": kv_bytes,
        "page_size": page_size,
        "speculate": speculate,
    }
    if out is not None and out.exists():
        raise ValueError(f"--out {out}: exists already; results are not overwritten")
    decoder = load_decoder(model, scorer, separator, dtype, device, max_rows=max_rows, **options)
    todo = _with_chat(todo, decoder.tokenizer) if chat else todo
    if out is None:
        results, stats = _run(decoder, todo, chosen, sampling, select)
    else:
        with out.open("x", encoding="utf-8") as stream:
            results, stats = _run(decoder, todo, chosen, sampling, select, stream)
    console.print(summary_table({f"{strategy}, budget {budget}": summary_row(results, stats)}))
    failed = sum(result.error is not None for result in results)
    if failed:
        console.print(f"[red]{failed} problems failed[/]: {next(r.error for r in results if r.error)}")


def demo_runs(limit: int, seed: int) -> Iterator[tuple[str, list[SearchResult], RunStats]]:
    """The searches of the demo: name, results and cost of each."""
    # Models this small only lose by handing their work from thread to thread.
    torch.set_num_threads(1)
    problems = read_problems(assets.PROBLEMS, limit)
    options: dict[str, Any] = {"aggregate": None, "backend": None, "kv_bytes": 1 << 30, "page_size": None}
    decoder = load_decoder(str(assets.POLICY), f"prm:{assets.PRM}", assets.SEPARATOR, "float32", **options)
    runs = [
        ("greedy", make_strategy("greedy", 1), 0.0, "majority"),
        ("majority of 16", make_strategy("best-of-n", 16), 0.8, "majority"),
        ("best of 16, weighted", make_strategy("best-of-n", 16), 0.8, "weighted"),
        ("beam 16, width 4", make_strategy("beam", 16), 0.8, "weighted"),
    ]
    for name, strategy, temperature, select in runs:
        yield name, *_run(decoder, problems, strategy, Sampling(temperature=temperature, seed=seed), select)


@app.command()
def demo(limit: Annotated[int, typer.Option(help="held-out problems")] = 300, seed: int = 0) -> None:
    """Greedy, majority vote, best-of-N and beam search on the shipped arithmetic models, at the same budget."""
    rows = {name: summary_row(results, stats) for name, results, stats in demo_runs(limit, seed)}
    console.print(summary_table(rows))


@app.command()
def info(as_json: Annotated[bool, typer.Option("--json", help="for programs")] = False) -> None:
    """Which backend runs each op on each device, and why another does not."""
    status = backend_status()
    if as_json:
        print(json.dumps({"torch": torch.__version__, "ops": status, "why_not_cuda": _ext.why_not_cuda()}))
    else:
        console.print(info_table(status))
        console.print(f"CUDA kernels: {_ext.why_not_cuda() or 'built'}")


def main() -> None:
    """Entry point: errors in what was asked for are one line, not a traceback."""
    try:
        app()
    except (ValueError, TypeError) as error:
        Console(stderr=True).print(f"[red]error:[/] {error}", highlight=False)
        raise SystemExit(2) from error
