"""Records the trees that searches with the shipped models decode: ``bench_traffic.py`` reads them from ``trees/``."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import tts_kernels as tts
from tts_kernels import accounting, assets
from tts_kernels.problems import read_problems
from tts_kernels.testing.trees import TreeShape, shape_of

OUT = Path(__file__).parent / "trees" / "recorded.json"
PROBLEMS = 24
# Every so many plans of the policy one is kept.
EVERY = 7


def record(strategy: object, name: str) -> list[TreeShape]:
    shapes: list[TreeShape] = []
    calls = 0
    count = accounting.TrafficMeter.count

    def recording(meter, call, on_cpu):
        nonlocal calls
        calls += 1
        if meter is decoder.policy.meter and calls % EVERY == 0 and call.rows == (call.counts > 0).sum():
            shapes.append(shape_of(call.plan, f"{name}, call {calls}"))
        count(meter, call, on_cpu)

    model = AutoModelForCausalLM.from_pretrained(assets.POLICY, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(assets.POLICY)
    scorer = tts.load_scorer(f"prm:{assets.PRM}", page_size=8)
    decoder = tts.Decoder(model, tokenizer, scorer=scorer, separator=assets.SEPARATOR, page_size=8)
    accounting.TrafficMeter.count = recording
    list(decoder.search(read_problems(assets.PROBLEMS, PROBLEMS), strategy))
    accounting.TrafficMeter.count = count
    return shapes[:: max(1, len(shapes) // 6)]


def main() -> None:
    shapes = record(tts.make_strategy("beam", 16, 4), "beam 16 x 4")
    shapes += record(tts.make_strategy("best-of-n", 16), "best of 16")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps([{"name": s.name, "parents": s.parents, "tokens": s.tokens} for s in shapes]) + "\n")
    print(OUT, [len(shape.parents) for shape in shapes])


if __name__ == "__main__":
    main()
