"""Growing nodes token by token: what is drawn, where a step ends, and which draws a rollout has already made."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor

from tts_kernels.admission import Admission, Expansion, P, Row, Search
from tts_kernels.ops.sample_children import sample_children
from tts_kernels.rows import Growing, Rows, signed
from tts_kernels.tree import Node, State, child_key


class Growth(Admission):
    """The part of a run that draws tokens. ``ended``: rows whose step or solution is complete."""

    ended: list[Row]

    def side_by_side(self, rows: Sequence[Row]) -> Growing:
        return Growing(rows, self.sampling, self.max_length)

    def feed_last(self, *groups: Rows) -> Tensor:
        """Next-token logits of every row's node, whose last token is fed."""
        try:
            kvs, tokens = (np.concatenate([getattr(rows, name) for rows in groups]) for name in ("kv", "last"))
            logits = self.policy.logits(kvs, tokens)
        except self.out_of_pages:
            # Somebody will be given up, and what became of it is told.
            for rows in groups:
                rows.write()
            raise
        for rows in groups:
            if not rows.early:
                for search, count, attended in rows.by_search(rows.ends):
                    search.meter.read(count, attended)
        return logits

    def fed(self, rows: Growing) -> Tensor | None:
        """What ``feed_last`` returns, for those rows that there is room for; None when there are none."""
        while rows:
            try:
                return self.feed_last(rows)
            except self.out_of_pages as error:
                self.make_room(error)
                rows.keep(np.array([row.search.alive for row in rows], bool))
        return None

    def sample(
        self, logits: Tensor, keys: np.ndarray, ends: np.ndarray, widths: np.ndarray, greedy: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """``widths[i]`` tokens from row i of logits [n, V], each at random as a node's key and the place in its path
        say."""
        device, s = logits.device, self.sampling
        draw = partial(sample_children, temperature=0.0)
        if not greedy:
            draw = partial(
                sample_children, temperature=s.temperature, top_k=s.top_k, top_p=s.top_p, min_p=s.min_p,
                distinct=s.distinct and widths.max(initial=0) > 1,
            )  # fmt: skip
        tokens, log_probs = draw(
            logits,
            torch.from_numpy(keys).to(device),
            torch.from_numpy(ends.astype(np.int32, copy=False)).to(device),
            torch.from_numpy(widths.astype(np.int32, copy=False)).to(device),
            total=int(widths.sum()),
            backend=self.decoder.backend,
        )
        return tokens.numpy(force=True), log_probs.numpy(force=True)

    def draw(self, rows: Rows, logits: Tensor, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The first ``widths[i]`` children's tokens of every row, with their log-probabilities; a greedy row's own."""
        if not rows.greedy.any():
            return self.sample(logits, rows.keys, rows.ends, widths)
        tokens, log_probs = np.empty(widths.sum(), np.int64), np.empty(widths.sum(), np.float32)
        of_greedy = np.repeat(rows.greedy, widths)
        for greedy in (False, True):
            chosen = np.flatnonzero(rows.greedy == greedy)
            drawn = self.sample(logits[chosen], rows.keys[chosen], rows.ends[chosen], widths[chosen], greedy)
            tokens[of_greedy == greedy], log_probs[of_greedy == greedy] = drawn
        return tokens, log_probs

    def take(self, rows: Growing, tokens: np.ndarray, log_probs: np.ndarray) -> None:
        """Give every row its token. Rows whose node is complete go; they await their judgement."""
        rows.add(tokens, log_probs)
        rows.states = self.decoder.detector.advance(rows.states, tokens)
        if not rows.early:
            for search, count, rollouts in rows.by_search(rows.greedy):
                search.meter.drew(count, rollouts)
        # Only these may have come to an end of any kind.
        stops = (rows.states == self.decoder.detector.final) | (rows.ends >= rows.watch)
        for token in self.decoder.eos_ids:
            stops |= tokens == token
        growing = np.ones(len(rows), bool)
        for index in np.flatnonzero(stops).tolist():
            row = rows.write_row(index)
            if self.ends(row, int(tokens[index])):
                growing[index] = False
                if not row.early:
                    self.close(row)
        if not growing.all():
            rows.keep(growing)

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
        growing = self.side_by_side(rows)
        while growing:
            self.stay_within_limits(growing)
            logits = self.fed(growing)
            if logits is None:
                return
            tokens, log_probs = self.draw(growing, logits, np.ones(len(growing), np.int32))
            self.follow(growing, logits, tokens)
            self.take(growing, tokens, log_probs)

    def stay_within_limits(self, rows: Growing) -> None:
        """As ``affordable``, which is only called where a limit is reached."""
        limit = self.strategy.limit
        if limit and not all(search.meter.allows(limit, *need) for search, *need in rows.by_search(rows.ends)):
            self.affordable(list(rows))
            rows.keep(np.array([not row.search.stopped for row in rows], bool))

    def affordable(self, rows: list[P]) -> list[P]:
        """The rows of searches whose limit allows them one more token each; the other searches are stopped."""
        if self.strategy.limit is None:
            return rows
        wanted: dict[Search, list[Node]] = {}
        for row in rows:
            count = len(row.missing) if isinstance(row, Expansion) else 1
            wanted.setdefault(row.search, []).extend([row.node] * count)
        for search, nodes in wanted.items():
            if not search.meter.allows(self.strategy.limit, len(nodes), sum(node.end for node in nodes)):
                search.stopped = search.stats.limited = True
                for node in nodes:
                    node.state = State.EXPANDED if node.num_children else State.PRUNED
        return [row for row in rows if not row.search.stopped]

    # --- rollouts: which nodes would have drawn the very same tokens

    def follow(self, rows: Growing, logits: Tensor, drawn: np.ndarray) -> None:
        """Let go of the followers that draw another token here than their rollout."""
        leaders, keys = rows.leaders, rows.followers
        if len(leaders):
            tokens, _ = self.sample(logits[leaders], keys, rows.ends[leaders], np.ones(len(keys), np.int64))
            same = tokens == drawn[leaders]
            rows.leaders, rows.followers = leaders[same], keys[same]

    def first_followers(self, expansion: Expansion, logits: Tensor, token: int) -> list[int]:
        """Keys of the children of this node, and of those that it is the twin of, that begin with ``token``. logits:
        [V]."""
        keys = expansion.node.twin_keys
        if not keys:
            return []
        ends, widths = (np.full(len(keys), value) for value in (expansion.node.end, expansion.width))
        tokens, _ = self.sample(logits.expand(len(keys), -1).contiguous(), signed(keys), ends, widths)
        children = [child_key(key, index) for key in keys for index in range(expansion.width)]
        return [child for child, drawn in zip(children, tokens.tolist(), strict=True) if drawn == token]
