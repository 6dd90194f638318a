"""How reward models want a path written: published layouts as text, and how they become tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

# Stand-ins for what a conversation will hold; no template changes or splits them.
_SLOTS = ("\x02q\x03", "\x02a\x03", "\x02b\x03", "\x02c\x03")


@dataclass(frozen=True)
class Format:
    """The text of a path: ``before(question)``, then every step followed by ``after``. ``lead`` comes before the first
    step (unless that is empty), ``between`` before the others; ``tail`` is put behind the newest step for its judgement
    and taken away again, and empty steps leave no trace then.

    A step is judged at the last token of its ``after``, or of ``tail`` where there is one: then only the newest step
    is. ``tag``: the judged token must be this text, which ends ``after``. ``strip``: steps lose the white space around
    them. ``pieces``: question, steps and tags are encoded one by one instead of as one text. ``special``: the text
    starts with the special tokens that the tokenizer puts before every text.
    """

    before: Callable[[str], str]
    after: str = ""
    lead: str = ""
    between: str = ""
    tail: str = ""
    tag: str | None = None
    strip: bool = False
    pieces: bool = False
    special: bool = True

    def as_whole(self, separator: str) -> Format:
        """Judge the partial answer as a whole: steps joined by ``separator``, one tag behind the newest."""
        return replace(self, after="", between=separator, tail=self.after + self.tail)


def tagged(after: str, between: str = "\n") -> Format:
    """Question, space, steps, each followed by a tag: Math-Shepherd's layout (Wang et al. 2312.08935)."""
    return Format(lambda question: f"{question} ", after, between=between, tag=after)


def lines(tokenizer: Any) -> Format:
    """Skywork-o1-Open-PRM: question and steps on lines of their own, every line encoded by itself."""
    bos = tokenizer.bos_token or ""
    return Format(lambda question: f"{bos}{question}\n", "\n", tag="\n", pieces=True)


def trl_lines(tokenizer: Any) -> Format:
    """TRL's PRMTrainer: prompt, then every completion with a newline behind it, each encoded by itself."""
    bos = tokenizer.bos_token or ""
    return Format(lambda question: f"{bos}{question}", "\n", pieces=True, special=False)


def pqm() -> Format:
    """PQM (Li and Li 2410.11287): question and steps on lines of their own, a token [PRM] at the end of each step."""
    return Format(lambda question: f"{question}\n", " [PRM]", between="\n", tag="[PRM]", special=False)


def chat_tags(tokenizer: Any, tag: str, system: str | None = None) -> Format:
    """Qwen2.5-Math-PRM: one answer in a conversation, its steps each followed by ``tag``."""
    head, middle, _, strip = _chat(tokenizer, [_SLOTS[0], _SLOTS[1]], system)
    return Format(_filled(head, middle, strip), tag, tag=tag, strip=strip, special=False)


def chat_turns(tokenizer: Any, good: str) -> Format:
    """RLHFlow's PRM: a user turn per step, answered by ``good``; judged before the answer would come."""
    head, first, again, second, _, strip = _chat(tokenizer, list(_SLOTS))
    if first != second:
        raise ValueError(f"rlhflow: the chat template must render every turn alike, got {first!r}, then {second!r}")
    return Format(_filled(head, "", strip), first, " ", good + again, strip=strip, special=False)


def chat_answer(tokenizer: Any, separator: str) -> Format:
    """An outcome reward model: the whole conversation, judged at its last token."""
    head, middle, tail, strip = _chat(tokenizer, [_SLOTS[0], _SLOTS[1]])
    return Format(_filled(head, middle, strip), "", "", separator, tail, strip=strip, special=False)


def _filled(head: str, middle: str, strip: bool) -> Callable[[str], str]:
    return lambda question: head + (question.strip() if strip else question) + middle


def _chat(tokenizer: Any, contents: list[str], system: str | None = None) -> list[Any]:
    """The template's text around each of ``contents``, by turns the user's and the assistant's; and whether the
    template strips contents."""
    if not getattr(tokenizer, "chat_template", None):
        raise ValueError("the reward model's tokenizer must have a chat template, found none")
    messages = [{"role": "system", "content": system}] if system else []
    roles = ("user", "assistant")

    def rendered(space: str) -> str:
        turns = [{"role": roles[i % 2], "content": f"{space}{text}{space}"} for i, text in enumerate(contents)]
        return tokenizer.apply_chat_template(messages + turns, tokenize=False)

    text, around = rendered(""), []
    for slot in contents:
        if text.count(slot) != 1:
            raise ValueError("the reward model's chat template must show every turn once, but it drops or repeats some")
        part, _, text = text.partition(slot)
        around.append(part)
    return [*around, text, f" {contents[-1]} " not in rendered(" ")]
