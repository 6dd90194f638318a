"""Worker of ``bench_decode.py``: transformers.

    pip install transformers torch

Modes: ``repeat``, one prefill whose cache is repeated for every branch, the best one does by hand;
``num_return_sequences``, what a user calls, reads the prompt once per branch; ``continuous``, continuous batching.
"""

from __future__ import annotations

from typing import Any

import torch
from peers.protocol import Request, resident_mb, serve
from transformers import AutoModelForCausalLM, DynamicCache, GenerationConfig, __version__
from transformers.generation.configuration_utils import ContinuousBatchingConfig

# The default of continuous batching.
PAGE_SIZE = 256


class Transformers:
    def __init__(self, request: Request) -> None:
        torch.set_num_threads(request["threads"])
        kind = getattr(torch, request["dtype"])
        self.model: Any = AutoModelForCausalLM.from_pretrained(request["model"], dtype=kind, attn_implementation="sdpa")
        self.model.eval()
        self.version, self.loaded_mb = __version__, resident_mb()
        self.run = {
            "repeat": self.repeat,
            "num_return_sequences": self.num_return_sequences,
            "continuous": self.continuous,
        }[request["mode"]]

    @torch.inference_mode()
    def next_tokens(self, prompts: list[list[int]]) -> list[int]:
        return self.model(torch.tensor(prompts), logits_to_keep=1).logits[:, -1].argmax(-1).tolist()

    def sample(self, prompt: list[int], branches: int, new: int) -> int:
        return self.run(prompt, branches, GenerationConfig(max_new_tokens=new, do_sample=True, top_k=0, pad_token_id=0))

    def repeat(self, prompt: list[int], branches: int, config: GenerationConfig) -> int:
        ids = torch.tensor([prompt])
        cache = DynamicCache(config=self.model.config)
        with torch.inference_mode():
            self.model(ids[:, :-1], past_key_values=cache, logits_to_keep=1)
        cache.batch_repeat_interleave(branches)
        ids = ids.repeat(branches, 1)
        out = self.model.generate(ids, config, attention_mask=torch.ones_like(ids), past_key_values=cache)
        return (out.shape[1] - len(prompt)) * out.shape[0]

    def num_return_sequences(self, prompt: list[int], branches: int, config: GenerationConfig) -> int:
        ids = torch.tensor([prompt])
        out = self.model.generate(ids, config, attention_mask=torch.ones_like(ids), num_return_sequences=branches)
        return (out.shape[1] - len(prompt)) * out.shape[0]

    def continuous(self, prompt: list[int], branches: int, config: GenerationConfig) -> int:
        config.num_return_sequences = branches
        # No token is the end.
        config.eos_token_id = -1
        # By default it takes most of the machine's memory, and the time to fill it.
        pages = -(-len(prompt) // PAGE_SIZE) + branches * (config.max_new_tokens // PAGE_SIZE + 2)
        memory = ContinuousBatchingConfig(page_size=PAGE_SIZE, num_blocks=pages)
        outputs = self.model.generate_batch(
            [prompt], generation_config=config, continuous_batching_config=memory, progress_bar=False
        )
        return sum(len(output.generated_tokens) for output in outputs.values())


if __name__ == "__main__":
    serve(Transformers)
