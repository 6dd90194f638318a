"""Building, training and saving the small Llama models."""

import json
import math
import os
import tempfile
from pathlib import Path

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from vocabulary import TOKENS, TokenIds

SEARCH_TEMPERATURE = 0.8


def build_llama(ids: TokenIds, hidden: int, layers: int, heads: int, kv_heads: int) -> LlamaForCausalLM:
    """A Llama with head_dim 32, an MLP of three times the hidden size, and untied embeddings."""
    config = LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=32,
        max_position_embeddings=256,
        tie_word_embeddings=False,
        pad_token_id=ids.pad,
        bos_token_id=ids.bos,
        eos_token_id=ids.eos,
    )
    return LlamaForCausalLM(config)


def parameter_count(model: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


class Trainer:
    """AdamW with a linear warm-up and a cosine decay; `step` takes the loss of one batch."""

    def __init__(self, model: torch.nn.Module, steps: int, peak_lr: float, warmup: int = 100):
        self._model = model
        self._optimizer = torch.optim.AdamW(model.parameters(), lr=peak_lr, betas=(0.9, 0.98), weight_decay=0.01)

        def factor(step: int) -> float:
            cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
            return min(1.0, (step + 1) / warmup) * (0.02 + 0.98 * cosine)

        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimizer, factor)

    def step(self, loss: Tensor) -> float:
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._model.parameters(), 1.0)
        self._optimizer.step()
        self._schedule.step()
        return loss.item()


def pad_right(sequences: list[list[int]], pad: int) -> Tensor:
    """[N, T] token ids; shorter sequences end in `pad`."""
    longest = max(map(len, sequences))
    return torch.tensor([tokens + [pad] * (longest - len(tokens)) for tokens in sequences])


def load(folder: Path):
    """The model in float32, ready to run, and its tokenizer."""
    model = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return model, AutoTokenizer.from_pretrained(folder)


def save(model: LlamaForCausalLM, tokenizer, folder: Path, extra_json: dict[str, dict] | None = None) -> None:
    """Write weights in bf16, configuration, tokenizer and `extra_json` (name -> content), each file atomically."""
    folder.mkdir(parents=True, exist_ok=True)
    rounded = LlamaForCausalLM(model.config)
    rounded.load_state_dict(model.state_dict())
    rounded.generation_config = model.generation_config
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        rounded.to(torch.bfloat16).save_pretrained(scratch)
        if model.generation_config._from_model_config:
            Path(scratch, "generation_config.json").unlink()
        tokenizer.save_pretrained(scratch)
        _name_portable_tokenizer_class(Path(scratch))
        for name, content in (extra_json or {}).items():
            Path(scratch, name).write_text(json.dumps(content, indent=2) + "\n")
        for file in Path(scratch).iterdir():
            file.chmod(0o644)
            os.replace(file, folder / file.name)


def _name_portable_tokenizer_class(folder: Path) -> None:
    """Name the tokenizer class that every transformers release knows."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    path.write_text(json.dumps(config, indent=2) + "\n")
