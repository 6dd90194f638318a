"""Beam search with a process reward model: our decoder against search-and-learn's scheme on plain transformers.

    python benchmarks/bench_beam.py --csv

Policy and reward model have SmolLM2-135M's shape and random weights; both systems use the same two models one after
the other and draw the same number of tokens. ``seconds_scoring``: in the reward model's scoring, the prompt's reading
included; ``seconds_generation``: all else. ``policy_tokens`` and ``prm_tokens``: tokens fed. What the real project does
differently stands in ``peers/search_and_learn.py``. A system's row is printed only after the peer's plain forward has
confirmed the scores of its paths.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import torch
import typer
from bench_decode import SMOLLM2_135M
from common import write_rows
from peers.search_and_learn import BeamStats, add_tags, beam_search, step_scores
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

from tts_kernels import Beam, Decoder, Problem, RunStats, Sampling
from tts_kernels.scorers import Prm

# How far two computations of the same score may be apart.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}
# Solutions that are scored again.
CHECKED_TEXTS = 4


@dataclass(frozen=True)
class Setting:
    """One search, in the words of ``beam_search``."""

    budget: int
    width: int
    depth: int
    step_tokens: int
    good_id: int = 648
    bad_id: int = 387
    tag_id: int = 12902
    temperature: float = 1.0
    seed: int = 0
    prm_rows: int = 8


def make_scorer(prm: PreTrainedModel, *, good_id: int, bad_id: int, tag_id: int, **pool: int) -> Any:
    return Prm.inline(prm, good_id=good_id, bad_id=bad_id, tag_id=tag_id, aggregate="last", **pool)


def count_seconds(scorer: Any, names: tuple[str, ...]) -> list[float]:
    """From now on these methods of the scorer append to the list how long each call took."""
    seconds: list[float] = []

    def timed(method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            begin = time.perf_counter()
            try:
                return method(*args)
            finally:
                seconds.append(time.perf_counter() - begin)

        return call

    for name in names:
        setattr(scorer, name, timed(getattr(scorer, name)))
    return seconds


def ours(policy: PreTrainedModel, prm: PreTrainedModel, prompt: list[int], setting: Setting) -> BeamStats:
    scorer = make_scorer(prm, good_id=setting.good_id, bad_id=setting.bad_id, tag_id=setting.tag_id)
    # add() reads the prompt, score() the steps.
    scoring = count_seconds(scorer, ("add", "score"))
    decoder = Decoder(policy, scorer=scorer, separator=[], eos_ids=[])
    sampling = Sampling(
        setting.temperature,
        max_step_tokens=setting.step_tokens,
        max_tokens=setting.depth * setting.step_tokens,
        seed=setting.seed,
    )
    strategy = Beam(setting.budget, setting.width, max_depth=setting.depth)
    spent = RunStats()
    (result,) = decoder.search([Problem("bench", prompt)], strategy, sampling, stats=spent)
    if result.error:
        raise RuntimeError(f"ours: the search failed: {result.error}")
    return BeamStats(
        generated_tokens=sum(len(node.tokens) for node in result.tree.nodes[1:]),
        policy_tokens=spent.policy["tokens"],
        prm_tokens=spent.scorer["tokens"],
        generation_seconds=spent.seconds - sum(scoring),
        scoring_seconds=sum(scoring),
        solutions=[list(candidate.tokens) for candidate in result.candidates],
        scores=[candidate.score for candidate in result.candidates],
    )


def peer(policy: PreTrainedModel, prm: PreTrainedModel, prompt: list[int], setting: Setting) -> BeamStats:
    return beam_search(policy, prm, prompt, **asdict(setting))


def check(prm: PreTrainedModel, prompt: list[int], setting: Setting, stats: BeamStats) -> None:
    """Raise RuntimeError unless all tokens were drawn and a plain forward confirms the first solutions' scores."""
    want_tokens = setting.budget * setting.depth * setting.step_tokens
    if stats.generated_tokens != want_tokens:
        raise RuntimeError(f"check: generated_tokens must be {want_tokens}, got {stats.generated_tokens}")
    texts = torch.tensor([prompt + solution for solution in stats.solutions[:CHECKED_TEXTS]])
    tagged = add_tags(texts, len(prompt), setting.step_tokens, setting.tag_id)
    good_bad = (setting.good_id, setting.bad_id)
    want = step_scores(prm, tagged, len(prompt), setting.step_tokens, good_bad, setting.prm_rows)[:, -1]
    worst = float((torch.tensor(stats.scores[:CHECKED_TEXTS]) - want.cpu()).abs().max())
    if not worst <= TOLERANCE[prm.dtype]:
        raise RuntimeError(f"check: scores must agree within {TOLERANCE[prm.dtype]}, got {worst} apart")


def make_model(seed: int, layers: int, dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape: dict[str, Any] = SMOLLM2_135M | {"num_hidden_layers": layers, "attn_implementation": "sdpa"}
    model = LlamaForCausalLM(LlamaConfig(**shape)).eval().to(dtype)
    model.generation_config.eos_token_id = None
    return model


def main(
    budget: int = 64,
    width: int = 4,
    depth: int = 12,
    step_tokens: int = 16,
    prefix: int = 256,
    layers: int = 30,
    threads: int = 2,
    dtype: Annotated[str, typer.Option(help="float32 or bfloat16")] = "float32",
    csv: Annotated[bool, typer.Option(help="write benchmarks/results/beam.csv")] = False,
) -> None:
    types = {str(kind).removeprefix("torch."): kind for kind in TOLERANCE}
    if dtype not in types:
        raise typer.BadParameter(f"dtype must be one of {', '.join(types)}, got {dtype}")
    torch.set_num_threads(threads)
    policy, prm = (make_model(seed, layers, types[dtype]) for seed in (0, 1))
    prompt = torch.randint(1000, 20000, (prefix,)).tolist()
    setting = Setting(budget, width, depth, step_tokens)
    columns = {"branches": budget, "width": width, "depth": depth, "step_tokens": step_tokens, "prefix": prefix}
    rows: list[dict[str, object]] = []
    for name, run in {"tts_kernels": ours, "search-and-learn": peer}.items():
        run(policy, prm, prompt[:32], Setting(2, 2, 2, 2))
        begin = time.perf_counter()
        stats = run(policy, prm, prompt, setting)
        seconds = time.perf_counter() - begin
        check(prm, prompt, setting, stats)
        rows.append({"system": name} | columns | {"layers": layers, "dtype": dtype, "seconds": round(seconds, 2)})
        rows[-1]["seconds_generation"] = round(stats.generation_seconds, 2)
        rows[-1]["seconds_scoring"] = round(stats.scoring_seconds, 2)
        rows[-1] |= {"policy_tokens": stats.policy_tokens, "prm_tokens": stats.prm_tokens}
        print(rows[-1], flush=True)
    if csv:
        print(write_rows("beam", rows))


if __name__ == "__main__":
    typer.run(main)
