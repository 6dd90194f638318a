"""Branches over a shared prefix: our decoder against transformers' ``generate``, side by side in one run.

    python benchmarks/bench_decode.py --csv

A model of SmolLM2-135M's shape with random weights, float32. ``generate(num_return_sequences=N)`` is what a user calls
today: it reads the prompt once per branch. ``cache repeated`` is the best one does by hand with transformers: one
prefill, its cache repeated for every branch. Seconds include the prefill; tokens per second count new tokens only.
"""

from __future__ import annotations

import time
from typing import Annotated

import torch
import typer
from common import write_rows
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

from tts_kernels import BestOfN, Decoder, Problem, RunStats, Sampling

SMOLLM2_135M = {
    "vocab_size": 49152,
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
}


def ours(model: LlamaForCausalLM, prompt: list[int], branches: int, new: int) -> tuple[int, RunStats]:
    decoder = Decoder(model, separator=[], eos_ids=[])
    stats = RunStats()
    problem = Problem("bench", prompt)
    (result,) = decoder.search([problem], BestOfN(branches), Sampling(1.0, max_tokens=new), stats=stats)
    return sum(len(candidate.tokens) for candidate in result.candidates), stats


def generate(model: LlamaForCausalLM, prompt: list[int], branches: int, new: int, repeated: bool) -> int:
    ids = torch.tensor([prompt])
    options = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": True, "top_k": 0, "pad_token_id": 0}
    if repeated:
        cache = DynamicCache(config=model.config)
        with torch.inference_mode():
            model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(branches)
        ids = ids.repeat(branches, 1)
        options |= {"past_key_values": cache}
    else:
        options |= {"num_return_sequences": branches}
    out = model.generate(ids, attention_mask=torch.ones_like(ids), **options)
    return (out.shape[1] - len(prompt)) * out.shape[0]


def main(
    branches: int = 32,
    prefix: int = 1024,
    new: int = 64,
    threads: int = 1,
    csv: Annotated[bool, typer.Option(help="write benchmarks/results/decode.csv")] = False,
) -> None:
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**SMOLLM2_135M)).eval()
    model.generation_config.eos_token_id = None
    prompt = torch.randint(1000, 20000, (prefix,)).tolist()
    ours(model, prompt[:32], 2, 2)
    runs = {
        "tts_kernels": lambda: ours(model, prompt, branches, new)[0],
        "transformers, cache repeated": lambda: generate(model, prompt, branches, new, repeated=True),
        "transformers generate": lambda: generate(model, prompt, branches, new, repeated=False),
    }
    rows: list[dict[str, object]] = []
    for name, run in runs.items():
        begin = time.perf_counter()
        tokens = run()
        seconds = time.perf_counter() - begin
        rows.append({"system": name, "branches": branches, "prefix": prefix, "new": new, "dtype": "float32"})
        rows[-1] |= {"seconds": round(seconds, 2), "tokens_per_second": round(tokens / seconds, 1)}
        print(rows[-1], flush=True)
    print(f"tts_kernels / transformers generate: {rows[0]['tokens_per_second'] / rows[2]['tokens_per_second']:.1f}x")  # type: ignore[operator]
    if csv:
        print(write_rows("decode", rows))


if __name__ == "__main__":
    typer.run(main)
