"""What reward models put on top of the last hidden state, reduced to the rows that a score needs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from tts_kernels.ops.score_steps import Head as Activation
from tts_kernels.scorers.checkpoint import Checkpoint


@dataclass(frozen=True)
class ScoreHead:
    """score = activation(weight @ features + bias), of class ``positive``; features are the hidden state itself or
    relu(first[0] @ hidden + first[1]).

    weight: [C, F] in the model's dtype; bias: [C] float32 or None; first: ([F, H], [F]) in the model's dtype.
    """

    weight: Tensor
    bias: Tensor | None = None
    activation: Activation = "softmax"
    positive: int = 0
    first: tuple[Tensor, Tensor] | None = None

    def features(self, hidden: Tensor) -> Tensor:
        """[M, H] -> [M, F]. The first layer of two is a plain matrix product, which is torch's to do."""
        return hidden if self.first is None else torch.relu(torch.nn.functional.linear(hidden, *self.first))

    @property
    def bounded(self) -> bool:
        """Whether scores are probabilities."""
        return self.activation != "raw"


def with_activation(head: ScoreHead, activation: Activation | None) -> ScoreHead:
    """The head with another activation. Raises ValueError where it makes no sense."""
    if activation is None:
        return head
    if activation == "softmax" or len(head.weight) > 1:
        raise ValueError(
            f"activation must be left out, or 'raw' or 'sigmoid' for a head with one output, got {activation!r} for "
            f"{len(head.weight)}"
        )
    return replace(head, activation=activation)


def _float(bias: Tensor | None) -> Tensor | None:
    return None if bias is None else bias.detach().float().contiguous()


def vocabulary_rows(model: PreTrainedModel, ids: list[int]) -> ScoreHead:
    """P(first of ids) against the others: soft-max over a few rows of a causal LM's head."""
    weight, bias = _vocabulary(model)
    at = torch.tensor(ids, device=weight.device)
    rows, offsets = weight[at], None if bias is None else bias[at]
    _check_logits(model, rows, offsets, lambda logits: logits[at])
    return ScoreHead(rows, _float(offsets))


def vocabulary_mean(model: PreTrainedModel) -> ScoreHead:
    """sigmoid(mean of all logits), which is the product with the mean row."""
    weight, bias = _vocabulary(model)
    row = weight.mean(0, keepdim=True, dtype=torch.float64)
    offset = None if bias is None else bias.mean(0, keepdim=True, dtype=torch.float64)
    _check_logits(model, row, offset, lambda logits: logits.mean(0, keepdim=True))
    return ScoreHead(row.to(weight.dtype), _float(offset), "sigmoid")


def _vocabulary(model: PreTrainedModel) -> tuple[Tensor, Tensor | None]:
    """The weight [V, H] and bias [V] of a causal LM's head."""
    head = model.get_output_embeddings()
    if head is None:
        raise TypeError(f"{type(model).__name__} has no language-model head to take rows from")
    return head.weight.detach(), None if head.bias is None else head.bias.detach()


@torch.inference_mode()
def _check_logits(model: PreTrainedModel, rows: Tensor, offsets: Tensor | None, of_logits: Any) -> None:
    """Some models scale or cap their logits after the head; then rows of the head are not the score."""
    probe = torch.zeros(1, 1, dtype=torch.long, device=rows.device)
    want = of_logits(model(input_ids=probe, use_cache=False).logits[0, -1].float())
    hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state[0, -1].float()
    got = rows.float() @ hidden + (0.0 if offsets is None else offsets.float())
    if not torch.allclose(got, want, rtol=2e-2, atol=2e-2 * float(want.abs().max())):
        raise TypeError(f"the logits of {type(model).__name__} are not its head times its last hidden state")


def causal(checkpoint: Checkpoint) -> PreTrainedModel:
    return checkpoint.load(AutoModelForCausalLM)


def value_head(checkpoint: Checkpoint, activation: Activation) -> tuple[PreTrainedModel, ScoreHead]:
    """TRL's value head: one linear output (Skywork with a sigmoid, PQM as it is)."""
    model = checkpoint.backbone()
    weight, bias = checkpoint.tensors(["v_head.summary.weight", "v_head.summary.bias"], model)
    _expect_shape(checkpoint, "v_head.summary.weight", weight, (1, model.config.hidden_size))
    return model, ScoreHead(weight, _float(bias), activation)


def two_layers(checkpoint: Checkpoint, outputs: int) -> tuple[PreTrainedModel, ScoreHead]:
    """Qwen's reward models: linear, ReLU, linear. Two outputs are classes of which the second is good."""
    model = checkpoint.backbone()
    size = model.config.hidden_size
    names = ["score.0.weight", "score.0.bias", "score.2.weight", "score.2.bias"]
    first, first_bias, weight, bias = checkpoint.tensors(names, model)
    _expect_shape(checkpoint, "score.0.weight", first, (size, size))
    _expect_shape(checkpoint, "score.2.weight", weight, (outputs, size))
    activation: Activation = "softmax" if outputs > 1 else "raw"
    return model, ScoreHead(weight, _float(bias), activation, outputs - 1, (first, first_bias))


def classifier(checkpoint: Checkpoint, kind: Any, outputs: int) -> tuple[PreTrainedModel, ScoreHead]:
    """The linear head of transformers' token and sequence classifiers. Two outputs: the second is good."""
    model = checkpoint.load(kind)
    head = getattr(model, "score", None) or getattr(model, "classifier", None)
    if not isinstance(head, torch.nn.Linear):
        raise TypeError(f"{checkpoint.name}: {type(model).__name__} must have one linear head, found {head}")
    _expect_shape(checkpoint, "the head's weight", head.weight, (outputs, head.in_features))
    activation: Activation = "softmax" if outputs > 1 else "raw"
    return model, ScoreHead(head.weight.detach(), _float(head.bias), activation, outputs - 1)


def _expect_shape(checkpoint: Checkpoint, name: str, tensor: Tensor, shape: tuple[int, ...]) -> None:
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{checkpoint.name}: {name} must be {list(shape)}, got {list(tensor.shape)}")
