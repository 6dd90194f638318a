"""Small random models for tests. Weights are scaled up so that attention is peaky and a wrong key shows."""

from __future__ import annotations

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

VOCAB = 53
_SIZES = {
    "vocab_size": VOCAB,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "max_position_embeddings": 256,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": None,
}
_GQA = {"num_key_value_heads": 2}
_GPT2 = {"vocab_size": VOCAB, "n_embd": 48, "n_layer": 2, "n_head": 6, "n_positions": 256, "eos_token_id": 1}

# Model type, and what its small configuration adds to or takes instead of _SIZES.
FAMILIES = {
    "llama": _GQA,
    "qwen2": _GQA,
    "qwen2-window": _GQA | {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1},
    "qwen3": _GQA | {"head_dim": 16},
    "mistral": _GQA | {"sliding_window": None},
    "mistral-window": _GQA | {"sliding_window": 7},
    "gemma3_text": _GQA | {"head_dim": 16, "sliding_window": 7, "layer_types": ["sliding_attention", "full_attention"]},
    "phi3": _GQA,
    "phi3-window": _GQA | {"sliding_window": 7},
    "olmo2": _GQA,
    "gpt_neox": {},
    "gpt2": _GPT2,
    "granite": _GQA | {"logits_scaling": 2.0, "attention_multiplier": 0.5},
    "starcoder2": _GQA,
    "mixtral": _GQA | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": _GQA
    | {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 7, "head_dim": 16}
    | {"layer_types": ["sliding_attention", "full_attention"]},
}


def tiny_model(family: str = "llama", seed: int = 0, **changes: object) -> PreTrainedModel:
    """A small random model of a family of FAMILIES, in eval mode, float32."""
    kind, extra = family.split("-")[0], FAMILIES[family]
    sizes = dict(extra) if kind == "gpt2" else _SIZES | extra
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **(sizes | changes)))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0 if "embed" in name or "wte" in name else 3.0)
    return model.eval()


@torch.inference_mode()
def dense_logits(model: PreTrainedModel, paths: list[list[int]]) -> torch.Tensor:
    """Logits [n, V] behind the last token of each path, by a plain forward over padded rows."""
    longest = max(map(len, paths))
    ids = torch.tensor([path + [0] * (longest - len(path)) for path in paths])
    logits = model(input_ids=ids, use_cache=False).logits
    return logits[torch.arange(len(paths)), torch.tensor([len(path) - 1 for path in paths])]
