"""Peak memory of scoring steps with a reward model against its vocabulary: ours and plain transformers.

    python benchmarks/bench_prm_memory.py --csv

Every system scores the same ``rows`` texts of ``tokens`` tokens with the same small random Llama model, float32, each
in a new process. ``peak_mb``: the highest resident memory during scoring less what was resident just before, weights
left out that way; the KV that ours keeps counts. Texts share their first token only, so that none profits from sharing.
``full logits`` is what reward models are used with; ``logits_to_keep`` is the best one can ask of transformers, where
the steps to be scored end at the same position in all rows. The scores of all systems must agree. Linux only.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from bench_beam import make_scorer
from common import write_rows
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from tts_kernels import Problem
from tts_kernels.scorers import PolicySide
from tts_kernels.tree import SearchTree

SYSTEMS = ("tts_kernels", "transformers, full logits", "transformers, logits_to_keep")
VOCABS = (32_768, 262_144)
SHAPE: dict[str, Any] = {
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
    "attn_implementation": "sdpa",
}
GOOD, BAD, TAG = 648, 387, 12902


def score_ours(scorer: Any, texts: Tensor) -> list[float]:
    """A tree whose root is the texts' first token, and a child for the rest of each; the tag is the scorer's to add."""
    prompt = texts[0, :1].tolist()
    tree = SearchTree(Problem("bench", tuple(prompt)), prompt, seed=0)
    children = tree.add_children(tree.root, len(texts))
    for child, text in zip(children, texts.tolist(), strict=True):
        child.tokens = text[1:-1]
        child.step_ends, child.cut = [len(child.tokens)], True
    with scorer.attached():
        scorer.add([tree])
        scorer.score([(tree, child) for child in children]).write()
        scorer.drop(tree)
    return [child.score for child in children]


@torch.inference_mode()
def score_plain(model: LlamaForCausalLM, texts: Tensor, logits_to_keep: int) -> list[float]:
    logits = model(input_ids=texts, use_cache=False, logits_to_keep=logits_to_keep).logits
    return logits[:, -1, [GOOD, BAD]].softmax(-1)[:, 0].tolist()


def make_texts(rows: int, tokens: int) -> Tensor:
    """Random texts [rows, tokens] that start with the same token and end with the tag."""
    texts = torch.randint(1000, 20000, (rows, tokens), generator=torch.Generator().manual_seed(0))
    texts[:, 0], texts[:, -1] = 1, TAG
    return texts


def resident_mb(field: str) -> float:
    """VmRSS, or VmHWM, the highest since it was reset."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (kib,) = (line.split()[1] for line in lines if line.startswith(f"{field}:"))
    return int(kib) * 1024 / 1e6


def measure(system: str, vocab: int, rows: int, tokens: int, threads: int) -> tuple[float, list[float]]:
    """Peak of additional memory in MB, and the scores. To be called in a process of its own."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocab, **SHAPE)).eval()
    scorer = None
    if system == "tts_kernels":
        # More than the texts need: memory counts as resident when it is first written.
        scorer = make_scorer(model, good_id=GOOD, bad_id=BAD, tag_id=TAG, kv_bytes=1 << 28)
        scorer.bind(PolicySide())

    def score(texts: Tensor) -> list[float]:
        if scorer is not None:
            return score_ours(scorer, texts)
        # 0 keeps the logits of all tokens.
        return score_plain(model, texts, logits_to_keep=int(system == "transformers, logits_to_keep"))

    # What libraries allocate once is no part of the scoring.
    score(make_texts(2, 8))
    texts = make_texts(rows, tokens)
    Path("/proc/self/clear_refs").write_text("5")
    before = resident_mb("VmRSS")
    scores = score(texts)
    return resident_mb("VmHWM") - before, scores


def main(
    rows: int = 8,
    tokens: int = 512,
    threads: int = 1,
    csv: Annotated[bool, typer.Option(help="write benchmarks/results/prm_memory.csv")] = False,
) -> None:
    # write_rows reports this process's threads.
    torch.set_num_threads(threads)
    # For the new processes: glibc's threshold adapts unless it is set, and freed memory may then stay resident.
    os.environ["MALLOC_MMAP_THRESHOLD_"] = str(128 << 10)
    table: list[dict[str, object]] = []
    for vocab in VOCABS:
        first: list[float] = []
        for system in SYSTEMS:
            # A process that was forked, or that measured before, would start with another's memory.
            with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
                peak, scores = fresh.submit(measure, system, vocab, rows, tokens, threads).result()
            first = first or scores
            worst = max(abs(a - b) for a, b in zip(first, scores, strict=True))
            if not worst <= 1e-4:
                raise RuntimeError(f"{system}: scores must agree with {SYSTEMS[0]} within 1e-4, got {worst} apart")
            table.append({"system": system, "vocab": vocab, "rows": rows, "tokens": tokens, "peak_mb": round(peak, 1)})
            print(table[-1], flush=True)
    if csv:
        print(write_rows("prm_memory", table))


if __name__ == "__main__":
    typer.run(main)
