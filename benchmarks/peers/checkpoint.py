"""The model of the benchmark as a plain Hugging Face checkpoint, and what it has to answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

# Prompts with a known next token, out of so many, of so many tokens.
CHECKS, CANDIDATES, CHECK_TOKENS = 8, 128, 24
# Random attention looks everywhere alike, and a wrong rotary layout would not show. Larger queries and keys make it
# peaked.
SHARPNESS = 3.0


def save_tokenizer(folder: Path, vocab_size: int) -> None:
    """Token i is the word ``ti``: for systems that insist on a tokenizer."""
    words = {f"t{index}": index for index in range(vocab_size)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="t0"))
    special = {"unk_token": "t0", "bos_token": "t1", "eos_token": "t2"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special).save_pretrained(folder)


@torch.inference_mode()
def expected_tokens(model: LlamaForCausalLM) -> tuple[list[list[int]], list[int]]:
    """Prompts whose likeliest next token is far ahead of the second, and these tokens."""
    prompts = torch.randint(1000, 20000, (CANDIDATES, CHECK_TOKENS))
    logits = model(prompts, logits_to_keep=1).logits[:, -1].float()
    best = logits.topk(2)
    clearest = (best.values[:, 0] - best.values[:, 1]).topk(CHECKS).indices
    return prompts[clearest].tolist(), best.indices[clearest, 0].tolist()


def save_model(folder: Path, shape: dict[str, Any], dtype: torch.dtype, seed: int) -> tuple[list[list[int]], list[int]]:
    """Save random weights in ``dtype``. Returns ``expected_tokens``, computed from these weights in float32."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**shape)).eval()
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight.mul_(SHARPNESS)
            layer.self_attn.k_proj.weight.mul_(SHARPNESS)
    model.generation_config.eos_token_id = None
    model.to(dtype).save_pretrained(folder)
    save_tokenizer(folder, shape["vocab_size"])
    return expected_tokens(model.float())
