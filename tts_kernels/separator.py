"""Where a step ends: finding a separator string in a stream of token ids without decoding text on the way."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


class StepDetector:
    """An automaton over token ids (Knuth, Morris, Pratt): ``advance`` moves many rows at once.

    ``table`` [states, vocab] int16: state s means that the last s bytes match the separator's first s. The last state
    means a step just ended; from it the next token starts afresh. A separator may lie across several tokens, or inside
    one, in which case the step ends with that token.
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
        """A step ends with the token that completes the UTF-8 bytes of ``separator``."""
        if not separator:
            raise ValueError("StepDetector: separator must not be empty")
        detector = cls(_feed(_byte_moves(separator.encode()), token_bytes(tokenizer, vocab_size)))
        if not detector._can_end():
            raise ValueError(f"StepDetector: no tokens of the vocabulary can end the separator {separator!r}")
        return detector

    def advance(self, states: np.ndarray, tokens: np.ndarray) -> np.ndarray:
        """New states int16 [n] after one token per row; rows at ``final`` just ended a step."""
        return self.table[states, tokens]

    def _can_end(self) -> bool:
        """Whether any tokens lead from the start to the final state."""
        seen, fresh = {0}, [0]
        while fresh:
            reached = set(np.unique(self.table[fresh.pop()]).tolist()) - seen
            seen |= reached
            fresh += reached
        return self.final in seen


def token_bytes(tokenizer: Any, size: int) -> list[bytes]:
    """What each token id below ``size`` adds to the text: UTF-8, perhaps a part of a character. b"": no such token."""
    names = {token: name for name, token in tokenizer.get_vocab().items() if token < size}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    pieces = [b""] * size
    if backend is not None and "ByteLevel" in repr(backend.decoder):
        added, alphabet = tokenizer.added_tokens_decoder, _byte_alphabet()
        for token, name in names.items():
            spelled = token not in added and all(letter in alphabet for letter in name)
            pieces[token] = bytes(alphabet[letter] for letter in name) if spelled else name.encode()
        return pieces
    for token, name in names.items():
        # At the start of a text a token may lose its space, but not behind itself.
        once, twice = (tokenizer.convert_tokens_to_string([name] * count) for count in (1, 2))
        # Without byte fallback the name is text like any other.
        is_byte = once != name and re.fullmatch("<0x[0-9A-Fa-f]{2}>", name)
        pieces[token] = bytes.fromhex(name[3:5]) if is_byte else twice[len(once) :].encode()
    return pieces


def _byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level vocabularies spell bytes: visible ones of Latin-1 are themselves."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = sorted(set(range(256)) - set(visible))
    return {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(others)}


def _byte_moves(pattern: bytes) -> np.ndarray:
    """The automaton over bytes, [states, 256] int16. It stays in its last state."""
    moves = np.zeros((len(pattern) + 1, 256), np.int16)
    # The state of the longest end of what was read that could be the start of the pattern.
    fallback = 0
    for state, byte in enumerate(pattern):
        moves[state] = moves[fallback]
        moves[state, byte] = state + 1
        if state:
            fallback = moves[fallback, byte]
    moves[-1] = len(pattern)
    return moves


def _feed(moves: np.ndarray, pieces: Sequence[bytes]) -> np.ndarray:
    """Where each piece leads from each state, [states, pieces] int16; from the last one as from the first."""
    final = len(moves) - 1
    table = np.tile((np.arange(final + 1, dtype=np.int16) % final)[:, None], len(pieces))
    lengths = np.array([len(piece) for piece in pieces])
    for position in range(lengths.max(initial=0)):
        longer = np.flatnonzero(lengths > position)
        table[:, longer] = moves[table[:, longer], [pieces[index][position] for index in longer.tolist()]]
    return table
