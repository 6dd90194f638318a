"""A process reward model read at the end of every step, evaluated incrementally over its own pages.

Math-Shepherd's form (Wang et al. 2312.08935): the score of a step is the probability of the "good" token against the
"bad" one, read at the step's last token. Only the rows of the head that belong to these two are ever multiplied.
"""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tts_kernels.backends import Backend
from tts_kernels.hf import TreeModel
from tts_kernels.ops.score_steps import score_steps
from tts_kernels.scorers.base import AGGREGATES, Aggregate
from tts_kernels.tree import Node, SearchTree


class StepSoftmaxPrm:
    """P(good) at the last token of each step, aggregated along the path.

    Policy and PRM share their tokenizer: token ids go over as they are. A step that a limit cut short is closed with
    ``tag_id``, so that it is scored where the model learned to judge. Siblings with the same tokens are one node here
    and get the very same score. ``model``: a causal LM whose logits are its head's product with the last hidden state.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        good_id: int,
        bad_id: int,
        tag_id: int,
        aggregate: Aggregate = "last",
        backend: Backend | None = None,
        vocab: dict[str, int] | None = None,
        **pool: Any,
    ) -> None:
        if aggregate not in AGGREGATES:
            raise ValueError(f"StepSoftmaxPrm: aggregate must be one of {', '.join(AGGREGATES)}, got {aggregate!r}")
        self.model = TreeModel(model, backend=backend, **pool)
        head = model.get_output_embeddings()
        vocab_size = head.weight.shape[0]
        for name, token in (("good_id", good_id), ("bad_id", bad_id), ("tag_id", tag_id)):
            if not 0 <= token < vocab_size:
                raise ValueError(f"StepSoftmaxPrm: {name} must be in [0, {vocab_size}), got {token}")
        rows = torch.tensor([good_id, bad_id], device=head.weight.device)
        self._weight = head.weight.detach()[rows].contiguous()
        self._bias = None if head.bias is None else head.bias.detach()[rows].float().contiguous()
        self._check_head(model, rows)
        self.tag_id = tag_id
        self.aggregate: Aggregate = aggregate
        self.backend = backend
        self.vocab = vocab
        # Per problem: node id -> node of the PRM's forest; and how many of our nodes a forest node stands for.
        self._nodes: dict[str, dict[int, int]] = {}
        self._uses: dict[int, int] = {}

    @classmethod
    def from_pretrained(
        cls,
        path: Path,
        *,
        aggregate: Aggregate | None = None,
        dtype: torch.dtype = torch.float32,
        device: str = "cpu",
        **options: Any,
    ) -> StepSoftmaxPrm:
        """Load a folder with a causal LM, its tokenizer and ``scorer.json``: ``{"kind": "step_softmax",
        "separator": ..., "good_token": ..., "bad_token": ..., "aggregate": ...}``, the last one a default."""
        settings_path = path / "scorer.json"
        if not settings_path.is_file():
            raise ValueError(f"StepSoftmaxPrm: {path} must hold a scorer.json, found none")
        settings = json.loads(settings_path.read_text())
        if settings.get("kind") != "step_softmax":
            raise ValueError(f"StepSoftmaxPrm: scorer.json must have kind 'step_softmax', got {settings.get('kind')!r}")
        tokenizer = AutoTokenizer.from_pretrained(path)
        ids = {}
        for key in ("good_token", "bad_token", "separator"):
            tokens = tokenizer.encode(settings[key], add_special_tokens=False)
            if len(tokens) != 1:
                raise ValueError(f"StepSoftmaxPrm: {key} {settings[key]!r} must be one token, got {tokens}")
            ids[key] = tokens[0]
        model = AutoModelForCausalLM.from_pretrained(path, dtype=dtype)
        model.to(torch.device(device))  # type: ignore[arg-type]
        return cls(
            model,
            good_id=ids["good_token"],
            bad_id=ids["bad_token"],
            tag_id=ids["separator"],
            vocab=tokenizer.get_vocab(),
            aggregate=aggregate or settings.get("aggregate", "last"),
            **options,
        )

    @torch.inference_mode()
    def _check_head(self, model: PreTrainedModel, rows: torch.Tensor) -> None:
        """Some models scale or cap their logits after the head; then two rows of the head are not the score."""
        probe = rows[None, :1]
        want = model(input_ids=probe, use_cache=False).logits[0, -1, rows].float()
        hidden = model.base_model(input_ids=probe, use_cache=False).last_hidden_state[0, -1]
        got = (self._weight.float() @ hidden.float()) + (0.0 if self._bias is None else self._bias)
        if not torch.allclose(got, want, rtol=2e-2, atol=2e-2 * float(want.abs().max())):
            name = type(model).__name__
            raise TypeError(f"StepSoftmaxPrm: the logits of {name} are not its head times its last hidden state")

    def attached(self) -> AbstractContextManager[None]:
        return self.model.attached()

    def add(self, trees: list[SearchTree]) -> None:
        forest = self.model.forest
        roots = forest.add_roots(len(trees))
        prompts = [tree.root.tokens for tree in trees]
        counts = np.array([len(p) for p in prompts], np.int32)
        try:
            self.model.hidden(roots, np.concatenate(prompts), counts, np.empty(0, np.int64))
        except BaseException:
            forest.release(roots)
            raise
        for tree, root in zip(trees, roots.tolist(), strict=True):
            self._nodes[tree.problem_id] = {0: root}
            self._uses[root] = 1

    def score(self, batch: list[tuple[SearchTree, Node]]) -> None:
        jobs: dict[tuple[int, tuple[int, ...]], list[tuple[SearchTree, Node]]] = {}
        for tree, node in batch:
            tokens = (*node.tokens, self.tag_id) if node.cut else tuple(node.tokens)
            jobs.setdefault((self._nodes[tree.problem_id][node.parent], tokens), []).append((tree, node))
        # Siblings must be adjacent for the fork; a stable sort keeps everything else in the caller's order.
        order = {parent: rank for rank, parent in enumerate(dict.fromkeys(parent for parent, _ in jobs))}
        grouped = sorted(jobs.items(), key=lambda job: order[job[0][0]])
        widths = np.bincount([order[parent] for (parent, _), _ in grouped], minlength=len(order)).astype(np.int32)
        children = self.model.pool.fork(np.array(list(order), np.int32), widths, keep=True)
        try:
            self._feed(grouped, children)
        except BaseException:
            self.model.forest.release(children)
            raise
        for (_, nodes), child in zip(grouped, children.tolist(), strict=True):
            self._uses[child] = len(nodes)
            for tree, node in nodes:
                self._nodes[tree.problem_id][node.id] = child

    def _feed(self, grouped: list[Any], children: np.ndarray) -> None:
        """Run the new tokens of every child in packed calls and write the scores into the nodes."""
        counts = np.array([len(tokens) for (_, tokens), _ in grouped], np.int32)
        firsts = [nodes[0][1] for _, nodes in grouped]
        starts = np.cumsum(counts) - counts
        ends = [start + np.array(self._read_at(node)) for start, node in zip(starts, firsts, strict=True)]
        rows = np.concatenate(ends)
        offsets = np.concatenate([[0], np.cumsum([len(e) for e in ends])]).astype(np.int32)
        tokens = np.concatenate([tokens for (_, tokens), _ in grouped])
        hidden = self.model.hidden(children, tokens, counts, rows)

        def on_device(values: Any, dtype: torch.dtype) -> torch.Tensor:
            return torch.tensor(values, dtype=dtype, device=hidden.device)

        step_scores, path_scores = score_steps(
            hidden,
            torch.arange(len(rows), dtype=torch.int32, device=hidden.device),
            on_device(offsets, torch.int32),
            self._weight,
            self._bias,
            head="softmax",
            positive=0,
            aggregate=self.aggregate,
            prior=on_device([node.score for node in firsts], torch.float32),
            prior_steps=on_device([node.num_steps for node in firsts], torch.int32),
            backend=self.backend,
        )
        scores, totals = step_scores.tolist(), path_scores.tolist()
        for index, (_, nodes) in enumerate(grouped):
            for _, node in nodes:
                node.step_scores = scores[offsets[index] : offsets[index + 1]]
                node.num_steps += len(node.step_scores)
                node.score = totals[index]

    @staticmethod
    def _read_at(node: Node) -> list[int]:
        """Where in the node's tokens, tag included, each step is judged: at its last token."""
        last = [end - 1 for end in node.step_ends]
        if node.cut:
            last[-1] += 1
        return last

    def release(self, tree: SearchTree, nodes: list[Node]) -> None:
        known = self._nodes[tree.problem_id]
        self._release([known.pop(node.id) for node in nodes])

    def drop(self, tree: SearchTree) -> None:
        self._release(list(self._nodes.pop(tree.problem_id, {}).values()))

    def _release(self, forest_nodes: list[int]) -> None:
        unused = []
        for node in forest_nodes:
            self._uses[node] -= 1
            if self._uses[node] == 0:
                del self._uses[node]
                unused.append(node)
        self.model.forest.release(np.array(unused, np.int32))

    def counters(self) -> dict[str, int]:
        return self.model.counters()

    @property
    def context_length(self) -> int:
        return self.model.context_length

    def check(self) -> None:
        """Raise RuntimeError when the forest and our books disagree."""
        self.model.forest.check()
        uses: dict[int, int] = {}
        for known in self._nodes.values():
            for node in known.values():
                uses[node] = uses.get(node, 0) + 1
        if uses != self._uses:
            raise RuntimeError(f"StepSoftmaxPrm: uses {self._uses} do not match the nodes' {uses}")
