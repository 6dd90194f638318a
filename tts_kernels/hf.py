"""Runs an unmodified Hugging Face causal LM over a forest of shared prefixes.

The tokens of all leaves travel as one packed row [1, N] with explicit position ids. The attention function registered
here writes the new K and V into the pool and attends through the plan, so the model keeps no cache and builds no mask.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel

from tts_kernels.accounting import Call, TrafficMeter
from tts_kernels.backends import Backend, dispatch
from tts_kernels.kv_pool import KVLayout, KVMemory, KVPool
from tts_kernels.layers import fast_layers
from tts_kernels.ops.tree_attention import tree_attention
from tts_kernels.ops.tree_attention._options import Options
from tts_kernels.ops.write_kv import write_kv
from tts_kernels.plan import Plan, make_plan
from tts_kernels.processors import AttentionShape

ATTENTION_NAME = "tts_kernels"
# Tokens by which leaves may grow before a plan is made again.
PLAN_GROWTH = 64
# Most tokens per call when many are fed at once: bounds the activations.
MAX_CALL_TOKENS = 4096


@dataclass
class TreeCache:
    """What one model call needs to find its KV: handed to ``model(..., tree_cache=...)`` and so to every layer.

    ``slots``: int32 [N], where each of the call's tokens is written. ``layers``: which layers have come by.
    ``checked``: what the last layer's arguments looked like; those that look the same need no check.
    """

    pool: KVPool
    plan: Plan
    slots: Tensor
    backend: Backend | None = None
    layers: list[int] = field(default_factory=list)
    checked: tuple[Any, ...] = ()


def tree_attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    tree_cache: TreeCache | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers calls: query [1, Hq, N, D], key and value [1, Hkv, N, D].

    Returns [1, N, Hq, D]. s_aux: sinks, [Hq]. Causal order, windows and ragged lengths come from the plan;
    ``attention_mask`` must be None.
    """
    name = type(module).__name__
    if tree_cache is None:
        raise TypeError(
            f"{name}: attention {ATTENTION_NAME!r} needs tree_cache=, which the model did not pass on; "
            "run the model through TreeModel, or the model drops keyword arguments on the way to its attention"
        )
    for feature in ("position_bias", "head_mask"):
        if kwargs.get(feature) is not None:
            raise TypeError(f"{name}: tree attention does not support {feature} in this version")
    if attention_mask is not None:
        raise TypeError(f"{name}: tree attention takes no mask, got one of shape {list(attention_mask.shape)}")
    if dropout:
        raise ValueError(f"{name}: tree attention has no dropout, got {dropout}; call model.eval()")
    layer = int(module.layer_idx)  # type: ignore[arg-type]
    tree_cache.layers.append(layer)
    k_pages, v_pages = tree_cache.pool.layer(layer)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    scale = q.shape[-1] ** -0.5 if scaling is None else scaling
    softcap, window, backend = softcap or 0.0, sliding_window or 0, tree_cache.backend
    looks = (q.shape, k.shape, v.shape, q.dtype, k.dtype, v.dtype, scale, softcap, window)
    # Strided queries are copied where they are checked.
    if s_aux is None and q.stride(-1) == 1 and looks == tree_cache.checked:
        write, attend = (dispatch(op, backend, q.device) for op in ("write_kv", "tree_attention"))
        write(k, v, k_pages, v_pages, tree_cache.slots, None, None)
        options = Options(scale, softcap, window, None, None, None)
        return attend(q, k_pages, v_pages, tree_cache.plan, options)[0][None], None
    write_kv(k, v, k_pages, v_pages, tree_cache.slots, backend=backend)
    out = tree_attention(
        q,
        k_pages,
        v_pages,
        tree_cache.plan,
        scale=scale,
        softcap=softcap,
        window=window,
        sinks=None if s_aux is None else s_aux.float(),
        backend=backend,
    )
    tree_cache.checked = looks
    return out[None], None


# No mask function goes with it: transformers then builds no mask at all, and the plan holds the causal order.
AttentionInterface.register(ATTENTION_NAME, tree_attention_forward)


def kv_layout(model: PreTrainedModel, page_size: int = 16) -> KVLayout:
    """What the model keeps of a token. Raises TypeError for a model without the attention interface of transformers."""
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"TreeModel: model must be a transformers PreTrainedModel, got {type(model).__name__}")
    if not getattr(model, "_supports_attention_backend", False):
        raise TypeError(f"TreeModel: {type(model).__name__} does not use the attention interface of transformers")
    config = model.config.get_text_config()
    heads = config.num_attention_heads
    return KVLayout(
        num_layers=config.num_hidden_layers,
        num_kv_heads=getattr(config, "num_key_value_heads", None) or heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        page_size=page_size,
        dtype=model.dtype,
    )


def context_length(model: PreTrainedModel) -> int:
    """Most tokens of a path that the model was made for; practically no limit where its config names none."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", 0) or 2**31 - 1)


def attended(tokens: int, begin: int) -> int:
    """Pairs of a token and a token that it sees, for so many tokens of a path from position ``begin`` on."""
    return tokens * begin + tokens * (tokens + 1) // 2


class TreeModel:
    """A causal model and its pool of pages: feeds tokens to the nodes of a forest.

    num_pages, or kv_bytes: size of a pool of its own. pool: one that shares its memory with others instead.
    invariant: a token's result has the same bits whatever else is fed in the same call, at the price of more reads.

    The model's weights, code and config stay as they are; inside ``with tree_model.attached():`` its attention is ours.
    Raises TypeError for a model without the attention interface of transformers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        num_pages: int | None = None,
        kv_bytes: int = 1 << 30,
        page_size: int = 16,
        pool: KVPool | None = None,
        backend: Backend | None = None,
        invariant: bool = False,
    ) -> None:
        layout = kv_layout(model, page_size if pool is None else pool.page_size)
        if pool is None:
            pool = KVMemory([layout], kv_bytes, model.device, num_pages).pool(layout, backend)
        elif pool.layout != layout:
            raise ValueError(f"TreeModel: pool must be of layout {layout}, got {pool.layout}")
        self.model = model
        self.backend = backend
        self.pool = pool
        config = model.config.get_text_config()
        self.context_length = context_length(model)
        self.attention_shape = AttentionShape(
            config.num_attention_heads, layout.num_kv_heads, layout.head_dim, model.dtype
        )
        self.invariant = invariant
        self.num_params = sum(p.numel() for p in model.parameters())
        self.meter = TrafficMeter()
        self._planned: _Planned | None = None

    @property
    def forest(self) -> Any:
        return self.pool.forest

    def cost(self, tokens: int, attended: int) -> int:
        """Floating-point operations: 2 per parameter and token, 4 per query head, dimension and key seen.

        attended: pairs of a token and a token that it sees, in one layer.
        """
        layout = self.pool.layout
        attention = 4 * self.attention_shape.q_heads * layout.head_dim * layout.num_layers * attended
        return 2 * self.num_params * tokens + attention

    def counters(self) -> dict[str, int]:
        """What was spent since the model was made, and what others would have moved for the same calls.

        ``calls``, ``tokens`` fed, ``flops``, ``peak_pages``; ``kv_bytes`` that attention requested, and ``bytes`` with
        queries, results and partial results; the same with ``_floor`` (the least possible), ``_unshared`` (every path
        by itself), ``_cascade`` (level by level) and ``_hugging_face`` (caches concatenated and expanded).
        """
        meter, layers, moved = self.meter, self.pool.layout.num_layers, self.meter.moved
        counted = {
            "calls": meter.calls,
            "tokens": meter.tokens,
            "flops": self.cost(meter.tokens, meter.attended),
            "peak_pages": self.forest.peak_pages,
        }
        for name, bytes_ in moved.items():
            suffix = "" if name == "ours" else f"_{name}"
            counted[f"kv_bytes{suffix}"] = layers * (bytes_.kv + bytes_.copied)
            counted[f"bytes{suffix}"] = layers * bytes_.total
        return counted

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Switch the model's attention to ours, and back to what it was on the way out."""
        before, training = self.model.config._attn_implementation, self.model.training
        self.model.set_attn_implementation(ATTENTION_NAME)
        self.model.eval()
        try:
            with fast_layers(self.model):
                yield
        finally:
            self.model.set_attn_implementation(before)
            self.model.train(training)

    def logits(self, nodes: np.ndarray, tokens: np.ndarray) -> Tensor:
        """Feed one token to each node and return next-token logits [n, V].

        nodes: int32 [n], tokens: int [n]. Raises OutOfPages, changing nothing, when the pool is full.
        """
        return self._call(self.model, nodes, tokens, np.ones(len(nodes), np.int32)).logits[0]

    def hidden(self, nodes: np.ndarray, tokens: np.ndarray, counts: np.ndarray, rows: np.ndarray) -> Tensor:
        """Feed ``counts[i]`` tokens to node i and return the last hidden states [len(rows), H] of some of them.

        nodes, counts: int32 [n]; tokens: int [sum(counts)]; rows: ascending indices into tokens. Works in calls of at
        most ``MAX_CALL_TOKENS`` tokens and builds no vocabulary-sized product. On OutOfPages the nodes may have been
        fed in part: release them.
        """
        width = self.model.config.get_text_config().hidden_size
        kept = [torch.empty(0, width, dtype=self.model.dtype, device=self.model.device)]
        done = 0
        for chunk_nodes, chunk_counts in _chunks(nodes, counts, MAX_CALL_TOKENS):
            end = done + int(chunk_counts.sum())
            output = self._call(self.model.base_model, chunk_nodes, tokens[done:end], chunk_counts)
            wanted = rows[(rows >= done) & (rows < end)] - done
            kept.append(output.last_hidden_state[0, torch.from_numpy(wanted.astype(np.int64)).to(self.model.device)])
            done = end
        return torch.cat(kept)

    @torch.inference_mode()
    def _call(self, module: nn.Module, nodes: np.ndarray, tokens: np.ndarray, counts: np.ndarray) -> Any:
        if len(tokens) != counts.sum():
            raise ValueError(f"TreeModel: tokens must have sum(counts) = {counts.sum()} entries, got {len(tokens)}")
        longest = int((self.forest.length(nodes) + counts).max(initial=0))
        if longest > self.context_length:
            raise ValueError(
                f"TreeModel: a path must stay within the model's context of {self.context_length} tokens, got {longest}"
            )
        device = self.model.device
        slots = torch.from_numpy(self.forest.append(nodes, counts)).to(device)
        plan = self._plan(nodes, counts)
        self.meter.count(Call(plan, self.attention_shape, counts), plan.units.device.type == "cpu")
        cache = TreeCache(self.pool, plan, slots, self.backend)
        output = module(
            input_ids=torch.from_numpy(np.ascontiguousarray(tokens, dtype=np.int64))[None].to(device),
            position_ids=plan.row_pos.long()[None],
            use_cache=False,
            tree_cache=cache,
        )
        layers = self.pool.layout.num_layers
        if sorted(cache.layers) != list(range(layers)):
            name = type(self.model).__name__
            raise TypeError(f"TreeModel: {name} has {layers} layers, attention ran for {cache.layers}")
        return output

    def _plan(self, nodes: np.ndarray, counts: np.ndarray) -> Plan:
        """The plan of the last call where it still holds (same leaves, no fork or release since), else a new one."""
        decoding = bool((counts == 1).all())
        planned = self._planned
        if planned and decoding and planned.matches(nodes, self.forest.version):
            planned.growth -= 1
            planned.plan.update(self.forest)
            return planned.plan
        growth = PLAN_GROWTH if decoding else 0
        plan = make_plan(
            self.forest, nodes, counts, growth=growth, shape=self.attention_shape, invariant=self.invariant,
            device=self.model.device,
        )  # fmt: skip
        self._planned = _Planned(plan, nodes.copy(), self.forest.version, growth) if decoding else None
        return plan


def _chunks(nodes: np.ndarray, counts: np.ndarray, limit: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cut (node, count) pairs, in order, into groups of at most ``limit`` tokens; a longer count is split itself."""
    group: list[tuple[int, int]] = []
    room = limit
    for node, count in zip(nodes.tolist(), counts.tolist(), strict=True):
        while count:
            taken = min(count, room)
            group.append((node, taken))
            count -= taken
            room -= taken
            if room == 0:
                yield tuple(np.array(group, np.int32).T)  # type: ignore[misc]
                group, room = [], limit
    if group:
        yield tuple(np.array(group, np.int32).T)  # type: ignore[misc]


@dataclass
class _Planned:
    plan: Plan
    nodes: np.ndarray
    version: int
    growth: int

    def matches(self, nodes: np.ndarray, version: int) -> bool:
        return self.growth > 0 and self.version == version and np.array_equal(self.nodes, nodes)
