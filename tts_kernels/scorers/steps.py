"""What a scorer may ask about the policy's side: its tokens as text, where steps end, and the memory it shares."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tts_kernels.kv_pool import KVPool
from tts_kernels.tree import Node, SearchTree


@dataclass(frozen=True)
class PolicySide:
    """``separator``: what ends a step, as text or as token ids. ``eos_ids``: what ends a solution. ``tokenizer``: None
    when prompts are token ids. ``pool``: pages for the scorer's model in the memory that it shares with the policy.
    """

    tokenizer: Any = None
    separator: str | Sequence[int] = ()
    eos_ids: frozenset[int] = frozenset()
    pool: KVPool | None = None

    def question(self, tree: SearchTree) -> str:
        """The bare problem: as given, else the text of its prompt. Raises ValueError when neither can be had."""
        problem = tree.problem
        if problem.question is not None:
            return problem.question
        if isinstance(problem.prompt, str):
            return problem.prompt
        if self.tokenizer is None:
            raise ValueError(f"problem {problem.id!r}: question must be given where the prompt is token ids, got none")
        return self.tokenizer.decode(problem.prompt, skip_special_tokens=True)

    def steps(self, tree: SearchTree, node: Node) -> Iterator[list[int]]:
        """The tokens of the node's steps, without those that end the solution. A step that was nothing else is none."""
        for step in tree.steps(node):
            kept = [token for token in step if token not in self.eos_ids]
            if kept:
                yield kept

    def trim(self, step: list[int]) -> list[int]:
        """The step's tokens without the separator."""
        if not isinstance(self.separator, str):
            return step[:-1] if step[-1] in self.separator else step
        for count in range(1, min(len(step), 4 * len(self.separator)) + 1):
            head, found, rest = self.tokenizer.decode(step[-count:]).rpartition(self.separator)
            if found and not rest.strip():
                return step[:-count] + (self.tokenizer.encode(head, add_special_tokens=False) if head else [])
        return step

    def texts(self, tree: SearchTree, node: Node, strip: bool) -> Iterator[str]:
        """The node's steps as text, without the separator."""
        if self.tokenizer is None:
            raise ValueError("the reward model reads text: the decoder must have the policy's tokenizer, got none")
        before = tree.nodes[node.parent].tokens[-1:]
        for step in self.steps(tree, node):
            text = self._cut(self._text(before, step))
            before = step[-1:]
            yield text.strip() if strip else text

    def _text(self, before: list[int], step: list[int]) -> str:
        """Some tokenizers drop the space at the start of a text, so the step is decoded behind the token before it."""
        alone = self.tokenizer.decode(before, skip_special_tokens=True)
        both = self.tokenizer.decode(before + step, skip_special_tokens=True)
        if both.startswith(alone):
            return both[len(alone) :]
        return self.tokenizer.decode(step, skip_special_tokens=True)

    def _cut(self, text: str) -> str:
        if isinstance(self.separator, str):
            head, found, rest = text.rpartition(self.separator)
            return head if found and not rest.strip() else text
        ends = tuple(self.tokenizer.decode([token]) for token in self.separator)
        end = next((end for end in ends if end and text.endswith(end)), "")
        return text[: len(text) - len(end)]
