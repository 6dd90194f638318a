"""Where a step ends: finding a separator string in a stream of token ids without decoding text on the way."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np


class StepDetector:
    """An automaton over token ids (Knuth, Morris, Pratt): ``advance`` moves many rows at once.

    ``table`` [states, vocab] int16: state s means that the last s characters match the separator's first s. The last
    state means a step just ended; from it the next token starts afresh. A separator may lie across several tokens, or
    inside one, in which case the step ends with that token.
    """

    def __init__(self, table: np.ndarray) -> None:
        self.table = table
        self.final = len(table) - 1

    @classmethod
    def from_ids(cls, ids: Iterable[int], vocab_size: int) -> StepDetector:
        """A step ends at any of these token ids."""
        ids = list(ids)
        if any(not 0 <= token < vocab_size for token in ids):
            raise ValueError(f"StepDetector: separator ids must be in [0, {vocab_size}), got {ids}")
        table = np.zeros((2, vocab_size), np.int16)
        table[:, ids] = 1
        return cls(table)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, separator: str, vocab_size: int) -> StepDetector:
        """A step ends when the text so far ends a token with or behind ``separator``."""
        if not separator:
            raise ValueError("StepDetector: separator must not be empty")
        pieces = tokenizer.batch_decode([[token] for token in range(min(len(tokenizer), vocab_size))])
        steps = _kmp_failures(separator)
        table = np.zeros((len(separator) + 1, vocab_size), np.int16)
        for state in range(len(separator) + 1):
            table[state, : len(pieces)] = [_feed(separator, steps, state, piece) for piece in pieces]
        if not (table == len(separator)).any():
            raise ValueError(f"StepDetector: no token of the vocabulary can end the separator {separator!r}")
        return cls(table)

    def advance(self, states: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """New states int16 [n] after one token per row; rows at ``final`` just ended a step."""
        return self.table[states, tokens]


def _kmp_failures(pattern: str) -> list[int]:
    """failures[s]: the longest proper prefix of the pattern that ends its first s characters."""
    failures = [0, 0]
    for index in range(1, len(pattern)):
        matched = failures[index]
        while matched and pattern[index] != pattern[matched]:
            matched = failures[matched]
        failures.append(matched + (pattern[index] == pattern[matched]))
    return failures


def _feed(pattern: str, failures: list[int], state: int, text: str) -> int:
    state = 0 if state == len(pattern) else state
    for character in text:
        while state and pattern[state] != character:
            state = failures[state]
        state += pattern[state] == character
        if state == len(pattern):
            return state
    return state
