"""Growing nodes token by token: what is drawn, where a step ends, and which draws a rollout has already made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tts_kernels.admission import Admission, Expansion, P, Row, Search
from tts_kernels.ops.sample_children import sample_children
from tts_kernels.tree import Node, State, child_key, signed


class Growth(Admission):
    """The part of a run that draws tokens. ``ended``: rows whose step or solution is complete."""

    ended: list[Row]

    def feed_last(self, rows: Sequence[Row | Expansion]) -> Tensor:
        """Next-token logits of every row's node, whose last token is fed."""
        nodes = np.array([row.kv for row in rows], np.int32)
        logits = self.policy.logits(nodes, np.array([row.node.tokens[-1] for row in rows]))
        for row in rows:
            if not row.early:
                row.search.meter.fed(1, row.node.end - 1)
        return logits

    def sample(
        self, logits: Tensor, keys: list[int], ends: list[int], widths: list[int], greedy: bool = False
    ) -> tuple[list[int], list[float]]:
        """``widths[i]`` tokens from row i of logits [n, V], each at random as a node's key and the place in its path
        say."""
        device, s = logits.device, self.sampling
        draw = partial(sample_children, temperature=0.0)
        if not greedy:
            draw = partial(
                sample_children, temperature=s.temperature, top_k=s.top_k, top_p=s.top_p, min_p=s.min_p,
                distinct=s.distinct and max(widths, default=0) > 1,
            )  # fmt: skip
        tokens, log_probs = draw(
            logits,
            torch.tensor([signed(key) for key in keys], dtype=torch.int64, device=device),
            torch.tensor(ends, dtype=torch.int32, device=device),
            torch.tensor(widths, dtype=torch.int32, device=device),
            total=sum(widths),
            backend=self.decoder.backend,
        )
        return tokens.tolist(), log_probs.tolist()

    def draw(self, rows: Sequence[Row | Expansion], logits: Tensor, widths: list[int]) -> list[list[tuple[int, float]]]:
        """The first ``widths[i]`` children's tokens of every row, with their log-probabilities; a greedy row's own."""
        drawn: list[list[tuple[int, float]]] = [[] for _ in rows]
        for greedy in (False, True):
            chosen = [index for index, row in enumerate(rows) if row.greedy == greedy]
            if not chosen:
                continue
            picked = logits if len(chosen) == len(rows) else logits[chosen]
            keys, ends = [rows[i].node.key for i in chosen], [rows[i].node.end for i in chosen]
            counts = [1 if greedy else widths[i] for i in chosen]
            pairs = zip(*self.sample(picked, keys, ends, counts, greedy), strict=True)
            for index, count in zip(chosen, counts, strict=True):
                drawn[index] = [next(pairs) for _ in range(count)]
        return drawn

    def take(self, rows: list[Row], drawn: list[tuple[int, float]]) -> list[Row]:
        """Give every row its token. Returns the rows that go on growing; the others await their judgement."""
        before = np.array([row.detector_state for row in rows], np.int16)
        after = self.decoder.detector.advance(before, np.array([token for token, _ in drawn], np.int64)).tolist()
        growing: list[Row] = []
        for row, (token, log_prob), state in zip(rows, drawn, after, strict=True):
            row.node.tokens.append(token)
            row.node.log_prob += log_prob
            row.detector_state = state
            if not row.early:
                row.search.meter.drew(row.node)
            if not self.ends(row, token):
                growing.append(row)
            elif not row.early:
                self.close(row)
        return growing

    def close(self, row: Row) -> None:
        """The row's node is complete."""
        row.node.twin_keys = row.followers
        row.search.meter.step(row.node)
        self.ended.append(row)

    def ends(self, row: Row, token: int) -> bool:
        """Close the row's step where it ends, and say whether the node is complete."""
        node, sampling = row.node, self.sampling
        separated = row.detector_state == self.decoder.detector.final
        longest = min(node.origin + sampling.max_tokens, self.max_length)
        if token in self.decoder.eos_ids:
            node.state = State.FINISHED
        elif node.end >= longest:
            node.state = State.TRUNCATED
            node.cut = not separated
        elif separated and not row.whole and node.first_step + 1 >= row.search.tree.max_depth:
            node.state = State.TRUNCATED
        elif not row.whole and not separated and len(node.tokens) >= sampling.max_step_tokens:
            node.cut = True
        elif row.whole or not separated:
            if separated:
                node.step_ends.append(len(node.tokens))
                row.search.meter.step(node)
            return False
        node.step_ends.append(len(node.tokens))
        return True

    def grow(self, rows: list[Row]) -> None:
        """One token per call and row until every row has ended its step."""
        while rows := self.affordable(rows):
            rows, logits = self.with_room(rows, self.feed_last)
            if logits is None:
                return
            drawn = [pairs[0] for pairs in self.draw(rows, logits, [1] * len(rows))]
            self.follow(rows, logits, drawn)
            rows = self.take(rows, drawn)

    def affordable(self, rows: list[P]) -> list[P]:
        """The rows of searches whose limit allows them one more token each; the other searches are stopped."""
        if self.strategy.limit is None:
            return rows
        wanted: dict[Search, list[Node]] = {}
        for row in rows:
            count = len(row.missing) if isinstance(row, Expansion) else 1
            wanted.setdefault(row.search, []).extend([row.node] * count)
        for search, nodes in wanted.items():
            if not search.meter.allows(self.strategy.limit, nodes):
                search.stopped = search.stats.limited = True
                for node in nodes:
                    node.state = State.EXPANDED if node.num_children else State.PRUNED
        return [row for row in rows if not row.search.stopped]

    # --- rollouts: which nodes would have drawn the very same tokens

    def follow(self, rows: list[Row], logits: Tensor, drawn: list[tuple[int, float]]) -> None:
        """Let go of the followers that draw another token here than their rollout."""
        places = [(index, key) for index, row in enumerate(rows) for key in row.followers]
        if not places:
            return
        ends = [rows[index].node.end for index, _ in places]
        tokens, _ = self.sample(logits[[i for i, _ in places]], [key for _, key in places], ends, [1] * len(places))
        for row in rows:
            row.followers = []
        for (index, key), token in zip(places, tokens, strict=True):
            if token == drawn[index][0]:
                rows[index].followers.append(key)

    def first_followers(self, expansion: Expansion, logits: Tensor, token: int) -> list[int]:
        """Keys of the children of this node, and of those that it is the twin of, that begin with ``token``. logits:
        [V]."""
        keys = expansion.node.twin_keys
        if not keys:
            return []
        widths, ends = [expansion.width] * len(keys), [expansion.node.end] * len(keys)
        tokens, _ = self.sample(logits.expand(len(keys), -1).contiguous(), keys, ends, widths)
        children = [child_key(key, index) for key in keys for index in range(expansion.width)]
        return [child for child, drawn in zip(children, tokens, strict=True) if drawn == token]
