"""Small random reward models, saved as the published ones are."""

from __future__ import annotations

import copy
import json
from dataclasses import dataclass
from typing import Any

import recipes
import small_tokenizers
import torch
from models import tiny_model
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, PreTrainedModel


@dataclass(frozen=True)
class Kind:
    """backbone: a family of tests/models.py. head: tensors besides the backbone, name -> shape with H for the hidden
    size. architecture: what config.json says."""

    recipe: Any
    tokenizer: str
    backbone: str = "llama"
    head: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    architecture: str | None = None


_VALUE_HEAD = (("v_head.summary.weight", (1, "H")), ("v_head.summary.bias", (1,)))
_TWO_LAYERS = (
    ("score.0.weight", ("H", "H")), ("score.0.bias", ("H",)), ("score.2.weight", (2, "H")), ("score.2.bias", (2,)),
)  # fmt: skip
KINDS = {
    "math-shepherd": Kind(recipes.math_shepherd, "mistral", "mistral"),
    "er-prm": Kind(recipes.math_shepherd, "llama3"),
    "math-psa": Kind(recipes.math_psa, "qwen", "qwen2"),
    "rlhflow": Kind(recipes.rlhflow, "llama3"),
    "skywork": Kind(recipes.skywork, "qwen", "qwen2", _VALUE_HEAD, "Qwen2ForPrmModel"),
    "qwen": Kind(recipes.qwen, "qwen", "qwen2", _TWO_LAYERS, "Qwen2ForProcessRewardModel"),
    "trl": Kind(
        recipes.trl, "qwen", "qwen2", (("score.weight", (2, "H")), ("score.bias", (2,))), "Qwen2ForTokenClassification"
    ),
    "pqm": Kind(recipes.pqm, "qwen", "qwen2", _VALUE_HEAD),
    "llemma": Kind(recipes.llemma, "mistral"),
    "orm": Kind(recipes.orm, "llama3", "llama", (("score.weight", (1, "H")),), "LlamaForSequenceClassification"),
}


@dataclass(frozen=True)
class Saved:
    """A model on disk, and all that its recipe needs to know of it, in float64."""

    path: str
    kind: Kind
    tokenizer: Any
    model: PreTrainedModel
    head: dict[str, torch.Tensor]

    def scores(self, question: str, steps: list[str]) -> list[float]:
        with torch.inference_mode():
            return self.kind.recipe(self.model, self.head, self.tokenizer, question, steps)


def save(name: str, path: Any, seed: int = 0) -> Saved:
    """Make the model of KINDS[name] and save it under ``path``."""
    kind = KINDS[name]
    tokenizer = getattr(small_tokenizers, kind.tokenizer)()
    model = tiny_model(kind.backbone, seed, vocab_size=len(tokenizer), max_position_embeddings=1024)
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    generator = torch.Generator().manual_seed(seed)
    sizes = [(key, [model.config.hidden_size if s == "H" else s for s in shape]) for key, shape in kind.head]
    head = {key: torch.randn(shape, generator=generator) * 0.3 for key, shape in sizes}
    if head:
        tensors = load_file(f"{path}/model.safetensors")
        tensors.pop("lm_head.weight", None)
        save_file(tensors | head, f"{path}/model.safetensors", metadata={"format": "pt"})
    if kind.architecture:
        with open(f"{path}/config.json") as stream:
            config = json.load(stream) | {"architectures": [kind.architecture]}
        if kind.architecture == "LlamaForSequenceClassification":
            config |= {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}
        with open(f"{path}/config.json", "w") as stream:
            json.dump(config, stream)
    # transformers knows some families' tokenizers better than their files do.
    tokenizer = AutoTokenizer.from_pretrained(path)
    return Saved(str(path), kind, tokenizer, copy.deepcopy(model).double(), {k: v.double() for k, v in head.items()})
