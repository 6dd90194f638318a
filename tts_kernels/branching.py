"""New nodes: texts that are handed in, children of nodes that are expanded, children that a rollout drew already."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from tts_kernels.admission import Expansion, Row, Search
from tts_kernels.rows import Rows
from tts_kernels.speculation import Speculation
from tts_kernels.tree import Node, child_key


@dataclass(frozen=True)
class Given:
    """Tokens handed in behind a node."""

    search: Search
    node: Node
    tokens: list[int]


@dataclass(frozen=True)
class Meeting:
    """The first node of a rollout, and the nodes to be expanded that have it before them."""

    search: Search
    node: Node
    expansions: list[Expansion]


class Branching(Speculation):
    """The part of a run that makes nodes. ``adopted``: rows of nodes that were complete from the start."""

    adopted: list[Row]

    def give(self, texts: list[Given]) -> None:
        """Nodes with tokens that were handed in: all but the last are fed, behind the last one of the node before."""
        for text in texts:
            if text.search.alive and text.node.end + len(text.tokens) >= self.max_length:
                message = f"a path must be shorter than {self.max_length} tokens, got {text.node.end} and more"
                self.failed.append(self.result(text.search, message))
                self.leave(text.search)

        def feed(texts: list[Given]) -> np.ndarray:
            # One fork for all texts behind a node, however they are ordered.
            widths = Counter((text.search, text.node) for text in texts)
            nodes = np.array([search.kv[node.id] for search, node in widths], np.int32)
            forked = self.policy.pool.fork(nodes, np.array(list(widths.values()), np.int32), keep=True)
            ends = np.cumsum(list(widths.values()))
            branches = {node: iter(kvs) for (_, node), kvs in zip(widths, np.split(forked, ends[:-1]), strict=True)}
            kvs = np.array([next(branches[text.node]) for text in texts], np.int32)
            tokens = [text.node.tokens[-1:] + text.tokens[:-1] for text in texts]
            counts = np.array([len(each) for each in tokens], np.int32)
            try:
                self.policy.hidden(kvs, np.concatenate(tokens), counts, np.empty(0, np.int64))
            except BaseException:
                self.policy.forest.release(kvs)
                raise
            return kvs

        texts, kvs = self.with_room(texts, feed)
        for text, kv in zip(texts, [] if kvs is None else kvs.tolist(), strict=True):
            child = text.search.tree.add_given(text.node, text.tokens)
            text.search.kv[child.id] = kv
            text.search.meter.fed(len(text.tokens), text.node.end - 1)

    def expand(self, wanted: list[Expansion]) -> list[Row]:
        """Feed the last token of every node to be expanded, draw the first tokens of all its children, fork."""
        for each in wanted:
            if not each.greedy:
                each.claimed = self.claim(each.search, each.node.id, [] if each.whole else each.indices)
        wanted = self.branch_off(self.affordable(self.meet_twins(wanted)))
        fed, logits = self.with_room([each for each in wanted if each.missing], lambda rows: self.feed_last(Rows(rows)))
        # Children are drawn in order; a rollout has none but itself.
        widths = np.array([1 if each.greedy else max(each.missing) + 1 for each in fed], np.int64)
        begins = dict(zip(fed, (np.cumsum(widths) - widths).tolist(), strict=True))
        if logits is not None:
            tokens, log_probs = self.draw(Rows(fed), logits, widths)
            for index, each in enumerate(fed):
                if each.greedy:
                    each.followers = self.first_followers(each, logits[index], int(tokens[begins[each]]))

        def fork(each: list[Expansion]) -> np.ndarray:
            counts = np.array([len(one.missing) for one in each], np.int32)
            return self.policy.pool.fork(np.array([one.kv for one in each], np.int32), counts)

        _, kvs = self.with_room(fed, fork)
        new = iter([] if kvs is None else kvs.tolist())
        rows: list[Row] = []
        firsts: list[int] = []
        growing: list[Row] = []
        for each in wanted:
            if each.search.alive:
                self.consume(each)
                begun = {index: next(new) for index in each.missing}
                growing += self.welcome(each)
                rows += self.children(each, begun)
                firsts += [begins[each] + max(index, 0) for index in begun]
        if firsts:
            started = self.side_by_side(rows)
            self.take(started, tokens[firsts], log_probs[firsts])
            rows = list(started)
        return rows + growing

    def meet_twins(self, wanted: list[Expansion]) -> list[Expansion]:
        """Children that a rollout has drawn already continue branches of its first node."""
        owners: dict[Node, list[Expansion]] = {}
        for each in wanted:
            chain = each.search.tree.rollout(each.node)
            if chain and not each.greedy and not each.whole:
                keys = set(chain[0].twin_keys)
                each.twins = {index: None for index in each.missing if child_key(each.node.key, index) in keys}
                if each.twins and not chain[0].ended:
                    owners.setdefault(chain[0], []).append(each)
        meetings = [Meeting(each[0].search, node, each) for node, each in owners.items()]

        def fork(meetings: list[Meeting]) -> np.ndarray:
            nodes = np.array([one.search.kv[one.node.id] for one in meetings], np.int32)
            counts = np.array([sum(len(each.twins) for each in one.expansions) for one in meetings], np.int32)
            return self.policy.pool.fork(nodes, counts, keep=True)

        meetings, kvs = self.with_room(meetings, fork)
        branches = iter([] if kvs is None else kvs.tolist())
        for one in meetings:
            for each in one.expansions:
                for index in each.twins:
                    each.twins[index] = kv = next(branches)
                    one.search.loose.add(kv)
        return [each for each in wanted if each.search.alive]

    def adopt(self, each: Expansion, child: Node) -> None:
        """The child is what the rollout's first node is."""
        search, kv = each.search, each.twins[child.path[-1]]
        twin = search.tree.rollout(each.node)[0]
        for name in ("score", "num_steps", "log_prob", "state", "cut"):
            setattr(child, name, getattr(twin, name))
        for name in ("tokens", "step_ends", "step_scores"):
            setattr(child, name, list(getattr(twin, name)))
        child.twin = twin.id
        if kv is not None:
            search.loose.discard(kv)
            search.kv[child.id] = kv
        self.scorer.adopt(search.tree, child, twin)
        search.stats.reused_tokens += len(child.tokens)
        self.adopted.append(Row(search, child, -1 if kv is None else kv))

    def branch_off(self, wanted: list[Expansion]) -> list[Expansion]:
        """Nodes that may be expanded again keep their own end, and those that something continues already must: a
        branch of it is fed instead."""
        kept = [each for each in wanted if each.missing and (each.keep or each.greedy or _continued(each))]

        def fork(each: list[Expansion]) -> np.ndarray:
            nodes = np.array([one.kv for one in each], np.int32)
            return self.policy.pool.fork(nodes, np.ones(len(each), np.int32), keep=True)

        kept, kvs = self.with_room(kept, fork)
        for each, kv in zip(kept, [] if kvs is None else kvs.tolist(), strict=True):
            each.kv = kv
            each.search.loose.add(kv)
        return [each for each in wanted if each.search.alive]

    def consume(self, each: Expansion) -> None:
        """Books: the forest node that was expanded is gone."""
        search = each.search
        search.stats.rounds = max(search.stats.rounds, each.node.first_step + len(each.node.step_ends) + 1)
        search.loose.discard(each.kv)
        if not each.keep and not each.greedy:
            kv = search.kv.pop(each.node.id)
            if kv != each.kv or not each.missing:
                self.policy.forest.release(np.array([kv], np.int32))

    def children(self, each: Expansion, begun: dict[int, int]) -> list[Row]:
        """All children in order. Returns rows for those that were begun now."""
        rows, tree = [], each.search.tree
        for index in each.indices:
            if index in each.claimed:
                early = each.claimed[index]
                each.search.kv[tree.attach(early.node).id] = early.kv
                continue
            child = tree.new_child(each.node, index)
            child.rollout = each.greedy
            tree.attach(child)
            if index in each.twins:
                self.adopt(each, child)
                continue
            each.search.kv[child.id] = begun[index]
            rows.append(Row(each.search, child, begun[index], each.whole, 0, each.greedy, each.followers))
        return rows

    def welcome(self, each: Expansion) -> list[Row]:
        """Charge for the children that grew early as if they were drawn now. Returns those that are not complete."""
        growing, meter = [], each.search.meter
        if each.claimed and not each.missing:
            meter.fed(1, each.node.end - 1)
        for row in each.claimed.values():
            node = row.node
            row.early = False
            node.score, node.num_steps = each.node.score, each.node.num_steps
            each.search.loose.discard(row.kv)
            meter.fed(len(node.tokens) - 1, node.start)
            meter.drew(len(node.tokens))
            if node.step_ends:
                self.close(row)
            else:
                growing.append(row)
        return growing


def _continued(each: Expansion) -> bool:
    return each.node.num_children > 0 or each.node.next_rollout is not None or bool(each.claimed)
