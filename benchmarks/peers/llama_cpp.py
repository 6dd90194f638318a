"""Worker of ``bench_decode.py``: llama.cpp through the low-level functions of llama-cpp-python.

    CMAKE_ARGS="-DLLAVA_BUILD=OFF" pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36 numpy gguf

One prefill, its cells given to every branch by ``seq_cp``, then one call per token with a token of every branch. Modes:
``unified`` or ``split`` KV, with flash attention or ``no flash``. KV is float16, the default, in either dtype.
"""

from __future__ import annotations

from pathlib import Path

import llama_cpp
import numpy as np
from peers.gguf_file import write_gguf
from peers.protocol import Request, resident_mb, serve

# llama.cpp's own granularity of a context.
CONTEXT_STEP = 256
# Divides the vocabulary.
VOCAB_RUN = 256


def draw(logits: np.ndarray, random: np.random.Generator) -> int:
    """A token of the row, drawn at temperature 1: faster than the library's own samplers.

    The inverse of the cumulative distribution, whose sums are taken by runs of the vocabulary and then within one.
    """
    weights = np.exp(logits - logits.max()).reshape(-1, VOCAB_RUN)
    ends = weights.sum(1).cumsum()
    wanted = random.random() * ends[-1]
    run = min(int(np.searchsorted(ends, wanted, "right")), len(ends) - 1)
    within = weights[run].cumsum()
    place = np.searchsorted(within, wanted - ends[run] + within[-1], "right")
    return run * VOCAB_RUN + min(int(place), VOCAB_RUN - 1)


class LlamaCpp:
    def __init__(self, request: Request) -> None:
        path = Path(request["model"]) / "model.gguf"
        if not path.exists():
            write_gguf(path.parent, path)
        llama_cpp.llama_backend_init()
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), llama_cpp.llama_model_default_params())
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self.model))
        self.version, self.loaded_mb = llama_cpp.__version__, resident_mb()
        self.context = self.make_context(request)
        self.memory = llama_cpp.llama_get_memory(self.context)
        self.room = max(request["prefix"], request["branches"])
        self.batch = llama_cpp.llama_batch_init(self.room, 0, 1)
        self.random = np.random.default_rng(0)

    def make_context(self, request: Request) -> llama_cpp.llama_context_p:
        unified = request["mode"].startswith("unified")
        branches, prefix, new = (request[key] for key in ("branches", "prefix", "new"))
        params = llama_cpp.llama_context_default_params()
        step = CONTEXT_STEP if unified else CONTEXT_STEP * branches
        cells = prefix + branches * new if unified else branches * (prefix + new)
        params.n_ctx = -(-cells // step) * step
        params.n_batch = max(prefix, branches)
        params.n_seq_max = branches
        params.n_threads = params.n_threads_batch = request["threads"]
        params.kv_unified = unified
        params.flash_attn_type = int(not request["mode"].endswith("no flash"))
        context = llama_cpp.llama_init_from_model(self.model, params)
        if context is None:
            raise RuntimeError(f"make_context: llama.cpp made no context of {params.n_ctx} tokens")
        return context

    def decode(self, tokens: np.ndarray, positions: np.ndarray, rows: np.ndarray, outputs: np.ndarray) -> np.ndarray:
        """Logits [outputs, vocabulary] of the tokens flagged in ``outputs``. ``rows``: the sequence of each token."""
        batch, count = self.batch, len(tokens)
        batch.n_tokens = count
        np.ctypeslib.as_array(batch.token, (count,))[:] = tokens
        np.ctypeslib.as_array(batch.pos, (count,))[:] = positions
        np.ctypeslib.as_array(batch.logits, (count,))[:] = outputs
        for row, sequence in enumerate(rows.tolist()):
            batch.n_seq_id[row] = 1
            batch.seq_id[row][0] = sequence
        status = llama_cpp.llama_decode(self.context, batch)
        if status:
            raise RuntimeError(f"decode: llama_decode failed with {status}")
        logits = llama_cpp.llama_get_logits(self.context)
        return np.ctypeslib.as_array(logits, (int(outputs.sum()), self.vocab))

    def prefill(self, prompt: list[int]) -> np.ndarray:
        llama_cpp.llama_memory_clear(self.memory, False)
        last = np.arange(len(prompt)) == len(prompt) - 1
        return self.decode(np.array(prompt), np.arange(len(prompt)), np.zeros(len(prompt), int), last)

    def next_tokens(self, prompts: list[list[int]]) -> list[int]:
        return [int(self.prefill(prompt).argmax()) for prompt in prompts]

    def sample(self, prompt: list[int], branches: int, new: int) -> int:
        first = self.prefill(prompt)[0]
        tokens = np.array([draw(first, self.random) for _ in range(branches)])
        sequences = np.arange(branches)
        for sequence in range(1, branches):
            llama_cpp.llama_memory_seq_cp(self.memory, 0, sequence, -1, -1)
        for position in range(len(prompt), len(prompt) + new - 1):
            logits = self.decode(tokens, np.full(branches, position), sequences, np.ones(branches, bool))
            tokens = np.array([draw(row, self.random) for row in logits])
        return branches * new


if __name__ == "__main__":
    serve(LlamaCpp)
