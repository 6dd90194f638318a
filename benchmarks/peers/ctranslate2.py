"""Worker of ``bench_decode.py``: CTranslate2.

    pip install ctranslate2==4.8.5 transformers torch

Modes: ``float32`` and ``int8`` weights; it has no efficient bfloat16 on CPUs.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import ctranslate2
from peers.protocol import Request, resident_mb, serve


def words(prompt: list[int]) -> list[str]:
    """The tokens as the checkpoint's tokenizer writes them."""
    return [f"t{token}" for token in prompt]


class CTranslate2:
    def __init__(self, request: Request) -> None:
        mode = request["mode"]
        folder = Path(request["model"]) / f"ctranslate2-{mode}"
        if not folder.exists():
            # In a process of its own, so that its memory is not counted.
            converter = [sys.executable, "-m", "ctranslate2.converters.transformers", "--model", request["model"]]
            subprocess.run([*converter, "--output_dir", str(folder), "--quantization", mode], check=True)
        self.generator = ctranslate2.Generator(
            str(folder), device="cpu", compute_type=mode, inter_threads=1, intra_threads=request["threads"]
        )
        self.version, self.loaded_mb = ctranslate2.__version__, resident_mb()

    def generate(self, prompts: list[list[int]], branches: int, new: int, top_k: int) -> list[list[list[int]]]:
        results = self.generator.generate_batch(
            [words(prompt) for prompt in prompts],
            num_hypotheses=branches,
            sampling_topk=top_k,
            min_length=new,
            max_length=new,
            include_prompt_in_result=False,
        )
        return [result.sequences_ids for result in results]

    def next_tokens(self, prompts: list[list[int]]) -> list[int]:
        return [sequences[0][0] for sequences in self.generate(prompts, 1, 1, top_k=1)]

    def sample(self, prompt: list[int], branches: int, new: int) -> int:
        # Zero: no limit.
        (sequences,) = self.generate([prompt], branches, new, top_k=0)
        return sum(map(len, sequences))


if __name__ == "__main__":
    serve(CTranslate2)
