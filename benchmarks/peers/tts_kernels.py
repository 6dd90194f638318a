"""Worker of ``bench_decode.py``: best-of-N in our decoder."""

from __future__ import annotations

import torch
from peers.protocol import Request, resident_mb, serve
from transformers import AutoModelForCausalLM

from tts_kernels import BestOfN, Decoder, Problem, Sampling, __version__


class TtsKernels:
    def __init__(self, request: Request) -> None:
        torch.set_num_threads(request["threads"])
        model = AutoModelForCausalLM.from_pretrained(request["model"], dtype=getattr(torch, request["dtype"])).eval()
        self.version, self.loaded_mb = __version__, resident_mb()
        self.decoder = Decoder(model, separator=[], eos_ids=[])

    def next_tokens(self, prompts: list[list[int]]) -> list[int]:
        problems = [Problem(str(index), prompt) for index, prompt in enumerate(prompts)]
        results = self.decoder.search(problems, BestOfN(1), Sampling(temperature=0.0, max_tokens=1))
        found = {result.problem.id: result.candidates[0].tokens[0] for result in results}
        return [found[problem.id] for problem in problems]

    def sample(self, prompt: list[int], branches: int, new: int) -> int:
        sampling = Sampling(temperature=1.0, max_step_tokens=new, max_tokens=new)
        (result,) = self.decoder.search([Problem("bench", prompt)], BestOfN(branches), sampling)
        if result.error:
            raise RuntimeError(f"sample: the search failed: {result.error}")
        return sum(len(candidate.tokens) for candidate in result.candidates)


if __name__ == "__main__":
    serve(TtsKernels)
