"""Instructions whose observance a program can check: IFEval's (Zhou et al. 2311.07911), by their published meaning.

An empty text follows none. ``language:response_language`` is missing: it needs a language detector.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable
from typing import Any

_ANSWERS = ("My answer is yes.", "My answer is no.", "My answer is maybe.")
_BLANK_LINES = re.compile(r"\n\s*\n")
_BULLET = re.compile(r"^[ \t]*[*-][ \t]+\S", re.MULTILINE)
_HIGHLIGHT = re.compile(r"\*\*(?=[^\s*])[^*\n]+\*\*|\*(?=[^\s*])[^*\n]+\*")
_LIST_NUMBER = re.compile(r"^[ \t]*\d+\.[ \t]+", re.MULTILINE)
_PLACEHOLDER = re.compile(r"\[[^\[\]\n]+\]")
# Closing quotes, brackets and emphasis go with the sentence. The second half: full-width ones need no space behind.
_SENTENCE_END = re.compile(
    r"(?<![.!?\u2026])[.!?\u2026]+[\"'\u201d\u2019)\]*_]*(?=\s|$)|[\u3002\uff01\uff1f]+[\u201d\u2019\u300d\u300f\uff09]*"
)
_UPPER_WORD = re.compile(r"\w+(?:-\w+)*")
_WORD = re.compile(r"\w+")

# Their full stop does not end a sentence; neither does that of an initial.
_ABBREVIATION = re.compile(r"(?:mr|mrs|ms|dr|prof|sr|jr|st|vs|e\.g|i\.e|cf)|(?-i:[A-HJ-Z])", re.IGNORECASE)


def follows(text: str, instruction_id: str, **kwargs: Any) -> bool:
    """Whether ``text`` follows one instruction; ``kwargs`` are IFEval's, where None means absent.

    Raises ValueError or TypeError for an unknown id and for arguments that the instruction does not take or lacks.
    """
    given = check_instruction(instruction_id, kwargs)
    return bool(text.strip()) and INSTRUCTIONS[instruction_id](text.strip(), **given)


def check_instruction(instruction_id: str, kwargs: dict[str, Any]) -> dict[str, Any]:
    """The arguments of an instruction without those that are None, all of them checked."""
    if instruction_id not in INSTRUCTIONS:
        known = ", ".join(INSTRUCTIONS)
        raise ValueError(f"check_instruction: instruction_id must be one of {known}, got {instruction_id!r}")
    given = {name: value for name, value in kwargs.items() if value is not None}
    wanted = list(inspect.signature(INSTRUCTIONS[instruction_id]).parameters)[1:]
    if sorted(given) != sorted(wanted):
        wants, got = ", ".join(wanted) or "none", ", ".join(given) or "none"
        raise ValueError(f"check_instruction: kwargs of {instruction_id} must be {wants}, got {got}")
    for name, value in given.items():
        _check_argument(instruction_id, name, value)
    return given


def _check_argument(instruction_id: str, name: str, value: Any) -> None:
    where = f"check_instruction: {name} of {instruction_id}"
    if name.endswith("relation"):
        if value not in ("less than", "at least"):
            raise ValueError(f"{where} must be 'less than' or 'at least', got {value!r}")
    elif name in ("keywords", "forbidden_words"):
        if not isinstance(value, list | tuple) or not all(isinstance(word, str) for word in value):
            raise TypeError(f"{where} must be a list of str, got {value!r}")
        if not value or not all(word.strip() for word in value):
            raise ValueError(f"{where} must hold words that are not empty, got {value!r}")
    elif name in _TEXT_ARGUMENTS:
        if not isinstance(value, str):
            raise TypeError(f"{where} must be a str, got {type(value).__name__}")
        if not value.strip() or (name == "letter" and len(value.strip()) != 1):
            raise ValueError(f"{where} must be {'one character' if name == 'letter' else 'not empty'}, got {value!r}")
    elif not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{where} must be an int, got {type(value).__name__}")
    elif value < (name == "nth_paragraph"):
        raise ValueError(f"{where} must be at least {int(name == 'nth_paragraph')}, got {value}")


def _compare(count: int, relation: str, bound: int) -> bool:
    return count < bound if relation == "less than" else count >= bound


def _times(word: str, text: str) -> int:
    return len(re.findall(re.escape(word.strip()), text, re.IGNORECASE))


def existence(text: str, keywords: list[str]) -> bool:
    """Every keyword occurs, if only inside a longer word."""
    return all(_times(word, text) for word in keywords)


def keyword_frequency(text: str, keyword: str, frequency: int, relation: str) -> bool:
    return _compare(_times(keyword, text), relation, frequency)


def forbidden(text: str, forbidden_words: list[str]) -> bool:
    """None occurs as a whole word."""
    choice = "|".join(re.escape(word.strip()) for word in forbidden_words)
    return not re.search(rf"(?<!\w)(?:{choice})(?!\w)", text, re.IGNORECASE)


def letter_frequency(text: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    return _compare(text.lower().count(letter.strip().lower()), let_relation, let_frequency)


def sentences(text: str, num_sentences: int, relation: str) -> bool:
    return _compare(_count_sentences(text), relation, num_sentences)


def _count_sentences(text: str) -> int:
    """By punctuation alone. Line breaks end no sentence; what follows the last full stop is one more."""
    text = _LIST_NUMBER.sub("", text)
    count = start = 0
    for end in _SENTENCE_END.finditer(text):
        sentence = text[start : end.start()]
        last_word = sentence.rstrip().rpartition(" ")[2].rpartition("\n")[2].lstrip("(\"'“")
        if end.group() == "." and _ABBREVIATION.fullmatch(last_word):
            continue
        count += bool(_WORD.search(sentence))
        start = end.end()
    return count + bool(_WORD.search(text, start))


def starred_paragraphs(text: str, num_paragraphs: int) -> bool:
    """Paragraphs divided by ``***``. An empty one counts at neither end and is a fault in between."""
    parts = [part.strip() for part in text.split("***")]
    return all(parts[1:-1]) and sum(map(bool, parts)) == num_paragraphs


def words(text: str, num_words: int, relation: str) -> bool:
    return _compare(len(_WORD.findall(text)), relation, num_words)


def nth_paragraph_first_word(text: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """Paragraphs divided by blank lines: their number, and how one of them starts."""
    parts = [part for part in _BLANK_LINES.split(text) if part.strip()]
    if len(parts) != num_paragraphs or nth_paragraph > len(parts):
        return False
    return _bare(parts[nth_paragraph - 1].split()[0]) == _bare(first_word)


def _bare(word: str) -> str:
    """Without the punctuation around it."""
    inner = re.search(r"[^\W_](?:.*[^\W_])?", word)
    return inner[0].lower() if inner else ""


def placeholders(text: str, num_placeholders: int) -> bool:
    return len(_PLACEHOLDER.findall(text)) >= num_placeholders


def postscript(text: str, postscript_marker: str) -> bool:
    """The marker occurs, with or without spaces behind its dots and with or without the last dot."""
    letters = [re.escape(part.strip()) for part in postscript_marker.strip().rstrip(".").split(".")]
    return bool(re.search(r"(?<!\w)" + r"\.\s?".join(letters) + r"(?!\w)", text, re.IGNORECASE))


def bullet_lists(text: str, num_bullets: int) -> bool:
    return len(_BULLET.findall(text)) == num_bullets


def constrained_response(text: str) -> bool:
    return any(answer in text for answer in _ANSWERS)


def highlighted_sections(text: str, num_highlights: int) -> bool:
    return len(_HIGHLIGHT.findall(text)) >= num_highlights


def multiple_sections(text: str, section_spliter: str, num_sections: int) -> bool:
    return len(re.findall(re.escape(section_spliter.strip()) + r"\s?\d+", text)) >= num_sections


def json_format(text: str) -> bool:
    """The whole text is JSON, bare or in a fenced block."""
    body = re.sub(r"^```(?:json)?|```$", "", text, flags=re.IGNORECASE)
    try:
        json.loads(body)
    except (ValueError, RecursionError):
        return False
    return True


def title(text: str) -> bool:
    """A title in ``<<double angular brackets>>`` on one line."""
    spans = [(line, line.find("<<"), line.rfind(">>")) for line in text.splitlines()]
    return any(0 <= begin < end and line[begin:end].strip("<> \t") for line, begin, end in spans)


def two_responses(text: str) -> bool:
    """Two different answers divided by six asterisks."""
    parts = [part.strip() for part in text.split("******")]
    given = [part for part in parts if part]
    return all(parts[1:-1]) and len(given) == 2 and given[0] != given[1]


def repeat_prompt(text: str, prompt_to_repeat: str) -> bool:
    return text.lower().startswith(prompt_to_repeat.strip().lower())


def end_checker(text: str, end_phrase: str) -> bool:
    return text.strip('"').rstrip().lower().endswith(end_phrase.strip().strip('"').lower())


def quotation(text: str) -> bool:
    return len(text) > 1 and text[0] == text[-1] == '"'


def capital_words(text: str, capital_frequency: int, capital_relation: str) -> bool:
    return _compare(sum(word.isupper() for word in _UPPER_WORD.findall(text)), capital_relation, capital_frequency)


def no_comma(text: str) -> bool:
    return "," not in text


_TEXT_ARGUMENTS = (
    "end_phrase",
    "first_word",
    "keyword",
    "letter",
    "postscript_marker",
    "prompt_to_repeat",
    "section_spliter",
)

INSTRUCTIONS: dict[str, Callable[..., bool]] = {
    "keywords:existence": existence,
    "keywords:frequency": keyword_frequency,
    "keywords:forbidden_words": forbidden,
    "keywords:letter_frequency": letter_frequency,
    "length_constraints:number_sentences": sentences,
    "length_constraints:number_paragraphs": starred_paragraphs,
    "length_constraints:number_words": words,
    "length_constraints:nth_paragraph_first_word": nth_paragraph_first_word,
    "detectable_content:number_placeholders": placeholders,
    "detectable_content:postscript": postscript,
    "detectable_format:number_bullet_lists": bullet_lists,
    "detectable_format:constrained_response": constrained_response,
    "detectable_format:number_highlighted_sections": highlighted_sections,
    "detectable_format:multiple_sections": multiple_sections,
    "detectable_format:json_format": json_format,
    "detectable_format:title": title,
    "combination:two_responses": two_responses,
    "combination:repeat_prompt": repeat_prompt,
    "startend:end_checker": end_checker,
    "startend:quotation": quotation,
    "change_case:capital_word_frequency": capital_words,
    "change_case:english_capital": str.isupper,
    "change_case:english_lowercase": str.islower,
    "punctuation:no_comma": no_comma,
}
