"""From the steps of a search to the tokens that a reward model reads, and the places where it judges them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from tts_kernels.scorers.format import Format
from tts_kernels.scorers.steps import PolicySide
from tts_kernels.tree import Node, SearchTree

# How a step's text may begin: what all of them leave as it is will stay.
_PROBES = ("x", " x", "\nx", "1", "(", "\\")


@dataclass(frozen=True)
class Stream:
    """All that the reward model has read of a path. ``text``: the same as text, where ids are made from it."""

    ids: list[int]
    text: str = ""
    num_steps: int = 0


@dataclass(frozen=True)
class Reading:
    """A node as the reward model reads it: ``stream`` ends with the node, ``tail`` is read behind it and forgotten.

    ``places``: for each step to be judged the index in ``stream.ids + tail``, or, where the step's tag has become part
    of another token in the longer text, the tokens that end with the tag.
    """

    stream: Stream
    places: list[int | list[int]]
    tail: list[int] = field(default_factory=list)


class Reader(Protocol):
    """Makes streams. Holds no state of any path."""

    def root(self, tree: SearchTree) -> Stream:
        """What stands before the first step."""

    def read(self, batch: list[tuple[Stream, SearchTree, Node]]) -> list[Reading]:
        """The nodes, each with its parent's stream."""


class InlineReader:
    """The policy's tokens as they are: every step ends with a token of its own by which it is judged.

    A step that a limit cut short is closed with ``tag_id``.
    """

    def __init__(self, tag_id: int) -> None:
        self.tag_id = tag_id

    def root(self, tree: SearchTree) -> Stream:
        return Stream(tree.root.tokens)

    def read(self, batch: list[tuple[Stream, SearchTree, Node]]) -> list[Reading]:
        return [self._read(stream, node) for stream, _, node in batch]

    def _read(self, stream: Stream, node: Node) -> Reading:
        ids = stream.ids + node.tokens + [self.tag_id] * node.cut
        places: list[int | list[int]] = [len(stream.ids) + end - 1 for end in node.step_ends]
        if node.cut:
            places[-1] = len(ids) - 1
        return Reading(Stream(ids), places)


class _FormatReader:
    """What both readers of a Format share."""

    def __init__(self, name: str, tokenizer: Any, form: Format, policy: PolicySide) -> None:
        self.name = name
        self.tokenizer = tokenizer
        self.form = form
        self.policy = policy
        self.tag_ids = self._behind("x", form.tag) if form.tag else []
        self.specials = self._specials()
        if form.tag and len(self.tag_ids) != 1:
            raise ValueError(
                f"{name}: the tag {form.tag!r} must be one token of the reward model's tokenizer, got {self.tag_ids}"
            )

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def _behind(self, text: str, more: str) -> list[int]:
        """The tokens of ``more`` where ``text`` stands before it."""
        if self.form.pieces:
            return self.encode(more)[-1:] if more == self.form.tag else self.encode(more)
        first, both = self.encode(text), self.encode(text + more)
        return both[len(first) :] if both[: len(first)] == first else self.encode(more)

    def _specials(self) -> list[int]:
        """The special tokens that the tokenizer puts before a text."""
        if not self.form.special:
            return []
        bare = self.encode("x")
        full = self.tokenizer.encode("x")
        return full[: next(i for i in range(len(full)) if full[i : i + len(bare)] == bare)]


class TokenReader(_FormatReader):
    """For a policy with the reward model's own tokenizer: the tokens of its steps go over as they are.

    Only the separator is taken off them (a token that holds more than the separator is encoded again without it).
    """

    def __init__(self, name: str, tokenizer: Any, form: Format, policy: PolicySide) -> None:
        super().__init__(name, tokenizer, form, policy)
        self._after = self._behind("x", form.after) if form.after else []
        self._between = self._behind("x" + form.after, form.between) if form.between else []
        self._lead = self.encode(form.lead)
        self._tail = self._behind("x" + form.after, form.tail) if form.tail else []

    def root(self, tree: SearchTree) -> Stream:
        return Stream(self.specials + self.encode(self.form.before(self.policy.question(tree))))

    def read(self, batch: list[tuple[Stream, SearchTree, Node]]) -> list[Reading]:
        return [self._read(*item) for item in batch]

    def _read(self, stream: Stream, tree: SearchTree, node: Node) -> Reading:
        ids, count = list(stream.ids), stream.num_steps
        places: list[int | list[int]] = []
        for step in map(self.policy.trim, self.policy.steps(tree, node)):
            if self._tail and not step:
                continue
            ids += (self._between if count else self._lead) + step + self._after
            places.append(len(ids) - 1)
            count += 1
        if self._tail:
            places = [len(ids) + len(self._tail) - 1] if places else []
        return Reading(Stream(ids, num_steps=count), places, self._tail if places else [])


class TextReader(_FormatReader):
    """For any policy: its steps become text at their boundaries, and the whole path is encoded as the recipe does.

    What the tokenizer may still merge with the text to come is not kept: it is read as part of the tail.
    """

    def __init__(self, name: str, tokenizer: Any, form: Format, policy: PolicySide) -> None:
        super().__init__(name, tokenizer, form, policy)
        if not tokenizer.is_fast:
            got = type(tokenizer).__name__
            raise ValueError(f"{name}: the tokenizer must be a fast one, which tells where its tokens end, got {got}")
        shown = "x" + form.after
        ids = self.encode(shown)
        self._stable = all(is_prefix(ids, self.encode(shown + form.between + probe)) for probe in _PROBES)

    def root(self, tree: SearchTree) -> Stream:
        text = self.form.before(self.policy.question(tree))
        if self.form.pieces:
            return Stream(self.specials + self.encode(text))
        shared = self.encode(text + _PROBES[0])
        for probe in _PROBES[1:]:
            shared = shared[: common(shared, self.encode(text + probe))]
        return Stream(self.specials + shared[: len(self.encode(text))], text)

    def read(self, batch: list[tuple[Stream, SearchTree, Node]]) -> list[Reading]:
        steps = [list(self.policy.texts(tree, node, self.form.strip)) for _, tree, node in batch]
        if self.form.tail:
            steps = [[text for text in texts if text] for texts in steps]
        if self.form.pieces:
            return [self._read_pieces(s, texts) for (s, *_), texts in zip(batch, steps, strict=True)]
        written = [self._written(stream, texts) for (stream, *_), texts in zip(batch, steps, strict=True)]
        texts = [text + self.form.tail for text, _ in written]
        encoded = self.tokenizer(texts, add_special_tokens=False, return_offsets_mapping=True)
        kept = self._kept([text for text, _ in written], encoded["input_ids"])
        spans = [[end for _, end in offsets] for offsets in encoded["offset_mapping"]]
        streams = [stream for stream, *_ in batch]
        return [self._reading(*each) for each in zip(streams, written, encoded["input_ids"], spans, kept, strict=True)]

    def _kept(self, texts: list[str], encoded: list[list[int]]) -> list[int]:
        """How many of the tokens no later text can change."""
        if self._stable and not self.form.tail:
            return [len(ids) for ids in encoded]
        longer = self.tokenizer([text + self.form.between + _PROBES[0] for text in texts], add_special_tokens=False)
        return [common(*pair) for pair in zip(encoded, longer["input_ids"], strict=True)]

    def _read_pieces(self, stream: Stream, texts: list[str]) -> Reading:
        ids = list(stream.ids)
        places: list[int | list[int]] = []
        for text in texts:
            ids += self.encode(text) + (self.tag_ids or self.encode(self.form.after))
            places.append(len(ids) - 1)
        return Reading(Stream(ids, num_steps=stream.num_steps + len(texts)), places)

    def _written(self, stream: Stream, texts: list[str]) -> tuple[str, list[int]]:
        """The path's text, and where in it the steps end."""
        text, ends = stream.text, []
        for index, step in enumerate(texts):
            lead = self.form.lead if step else ""
            text += (self.form.between if stream.num_steps + index else lead) + step + self.form.after
            ends.append(len(text))
        return text, ends

    def _reading(
        self, stream: Stream, written: tuple[str, list[int]], ids: list[int], token_ends: list[int], kept: int
    ) -> Reading:
        text, ends = written
        if not ends:
            return Reading(stream, [])
        first = len(self.specials)
        body = Stream(self.specials + ids[:kept], text, stream.num_steps + len(ends))
        if self.form.tail:
            return Reading(body, [first + len(ids) - 1], ids[kept:])
        # Where several tokens make one character, they end together and the last of them counts.
        last = {end: index for index, end in enumerate(token_ends)}
        places: list[int | list[int]] = []
        for end in ends:
            if self._is_tag(ids, last.get(end)):
                places.append(first + last[end])
            else:
                places.append(self.specials + self._alone(text[:end]))
        return Reading(body, places, ids[kept:])

    def _is_tag(self, ids: Sequence[int], place: int | None) -> bool:
        return place is not None and (not self.tag_ids or ids[place] == self.tag_ids[0])

    def _alone(self, text: str) -> list[int]:
        """The tokens of a text that ends with a tag."""
        ids = self.encode(text)
        if self.tag_ids and ids[-1] != self.tag_ids[0]:
            merged = self.tokenizer.decode(ids[-1:])
            raise ValueError(
                f"{self.name}: the tag {self.form.tag!r} must stay token {self.tag_ids[0]} behind every step, but the "
                f"reward model's tokenizer makes {merged!r} of it behind {text[-40:]!r}"
            )
        return ids


def is_prefix(short: list[int], long: list[int]) -> bool:
    return long[: len(short)] == short


def common(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens the two have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((index for index, (a, b) in pairs if a != b), min(len(one), len(other)))
