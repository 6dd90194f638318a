"""Reading reward models: the backbone by transformers, heads that transformers does not know tensor by tensor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import cached_file, logging

_FILES = ("model.safetensors", "pytorch_model.bin")


class Checkpoint:
    """A folder, or a model of the hub, as saved by transformers. Its own code never runs unless trusted.

    Raises ValueError where there is no such model.
    """

    def __init__(
        self,
        name: str,
        path: str | Path,
        *,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        trust_remote_code: bool = False,
    ) -> None:
        self.name = name
        self.path = str(path)
        self.device = device
        self.trusted = {"trust_remote_code": trust_remote_code}
        self.options: dict[str, Any] = {"dtype": dtype, **self.trusted}
        try:
            self.config = AutoConfig.from_pretrained(self.path, **self.trusted)
        except (OSError, ValueError) as error:
            raise ValueError(f"{name}: no model can be read from {self.path!r}: {error}") from error

    @cached_property
    def tokenizer(self) -> Any:
        try:
            return AutoTokenizer.from_pretrained(self.path, **self.trusted)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.name}: no tokenizer can be read from {self.path!r}: {error}") from error

    @property
    def architecture(self) -> str:
        """The class that the model was saved from, as its config says; empty when it does not."""
        return (self.config.architectures or [""])[0]

    def load(self, kind: Any) -> PreTrainedModel:
        """The model by one of transformers' Auto classes. Raises ValueError when weights are missing."""
        # Heads that transformers does not know are read apart; it need not warn of them.
        verbosity = logging.get_verbosity()
        logging.set_verbosity_error()
        try:
            model, report = kind.from_pretrained(self.path, output_loading_info=True, **self.options)
        finally:
            logging.set_verbosity(verbosity)
        missing = sorted(report["missing_keys"])
        if missing:
            raise ValueError(f"{self.name}: {self.path!r} must hold {kind.__name__}'s weights, {missing[0]} is missing")
        return model.to(self.device).eval()

    def backbone(self) -> PreTrainedModel:
        """The model without any head. TRL's wrapper around a model leaves a prefix on its weights."""
        self.options["key_mapping"] = {r"^pretrained_model\.": ""}
        return self.load(AutoModel)

    def tensors(self, names: Sequence[str], like: PreTrainedModel) -> list[Tensor]:
        """Tensors of the file, by name, in the model's dtype and on its device. Raises ValueError for one not there."""
        return [self._tensor(name).to(like.device, like.dtype) for name in names]

    def _tensor(self, name: str) -> Tensor:
        if name not in self.files:
            heads = sorted(key for key in self.files if not key.startswith(("model.", "pretrained_model.")))
            raise ValueError(f"{self.name}: {self.path!r} must hold {name}, besides the backbone it holds {heads}")
        file = self.files[name]
        if file.endswith(".bin"):
            return torch.load(file, map_location="cpu", weights_only=True)[name]
        with safe_open(file, framework="pt") as opened:
            return opened.get_tensor(name)

    @cached_property
    def files(self) -> dict[str, str]:
        """Which file holds which tensor."""
        optional = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        for name in _FILES:
            index = cached_file(self.path, f"{name}.index.json", **optional)
            if index is not None:
                shards: dict[str, str] = json.loads(Path(index).read_text())["weight_map"]
                paths = {shard: str(cached_file(self.path, shard)) for shard in set(shards.values())}
                return {key: paths[shard] for key, shard in shards.items()}
            file = cached_file(self.path, name, **optional)
            if file is not None:
                return dict.fromkeys(_keys(file), file)
        raise ValueError(f"{self.name}: {self.path!r} must hold {' or '.join(_FILES)}, found neither")


def _keys(file: str) -> list[str]:
    if file.endswith(".bin"):
        return list(torch.load(file, map_location="meta", weights_only=True))
    with safe_open(file, framework="pt") as opened:
        return list(opened.keys())
