import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tts_kernels.separator import StepDetector, token_bytes

# What the tokenizers learn from, and what texts are made of. Some characters are only in FRAGMENTS.
CORPUS = ["the cat и кит, the 猫。\n", "two and two: 2 + 2 = 4\n\n", "кот и кит。猫と犬。\n", "naïve café 👍 the end"]
FRAGMENTS = [
    "\n",
    "。",
    "\n\n",
    " ",
    "  ",
    "ки",
    " ки",
    "кк",
    "猫",
    "犬",
    "é",
    "👍",
    "👎",
    "ж",
    "the",
    " the",
    "▁",
    "aab",
    "<0x0A>",
]
SEPARATORS = ["\n\n", "。\n", " ки", "👎", "ж", "猫犬", "aab", " the", "  ", "\n", "é👍é👎", "<stop>", "。。\n。。。\n"]
TEXTS = st.lists(st.sampled_from([*FRAGMENTS, *SEPARATORS]) | st.text(max_size=3), max_size=30).map("".join)


def fast(tokenizer, *added):
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in added])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False)


def byte_level(decoder):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoder
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return fast(tokenizer, "<stop>", "<end▁of▁text>", "    ", "<fín>")


def byte_fallback(decoder):
    """Characters that the training left out are spelled in bytes."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=60, limit_alphabet=22, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    model = json.loads(trained.to_str())["model"]
    names = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *model["vocab"]]
    vocab = {name: token for token, name in enumerate(names)}
    merges = [tuple(pair) for pair in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = trained.pre_tokenizer
    tokenizer.decoder = decoder
    return fast(tokenizer, "<stop>", "\n\n\n")


def whole_words(pieces):
    """Token i is the i-th string."""
    tokenizer = Tokenizer(models.WordLevel({piece: index for index, piece in enumerate(pieces)}, unk_token=pieces[0]))
    tokenizer.decoder = decoders.Fuse()
    return fast(tokenizer)


LLAMA = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
MAKERS = {
    "byte-level": lambda: byte_level(decoders.ByteLevel()),
    "byte-level in a sequence": lambda: byte_level(decoders.Sequence([decoders.ByteLevel(), decoders.Fuse()])),
    "byte fallback, space stripped": lambda: byte_fallback(decoders.Sequence(LLAMA)),
    "byte fallback, space kept": lambda: byte_fallback(decoders.Sequence(LLAMA[:3])),
    "byte fallback, metaspace": lambda: byte_fallback(
        decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()])
    ),
}
make = cache(lambda kind: MAKERS[kind]())
make_detector = cache(lambda kind, separator: StepDetector.from_tokenizer(make(kind), separator, len(make(kind))))


def ends(detector, ids):
    """Which tokens end a step, by the automaton."""
    state, found = np.zeros(1, np.int16), []
    for token in ids:
        state = detector.advance(state, np.array([token]))
        assert state.dtype == np.int16
        found.append(bool(state[0] == detector.final))
    return found


def decoded_ends(tokenizer, separator, ids):
    """The same by decoding what came since the last end, anew for every token, behind a letter of which no separator
    is made: bytes that are no whole character decode to something else, but never hide one that is whole."""
    letter = tokenizer.encode("x")
    begin, found = 0, []
    for end in range(1, len(ids) + 1):
        found.append(separator in tokenizer.decode(letter + ids[begin:end]))
        begin = end if found[-1] else begin
    return found


@pytest.mark.parametrize("kind", MAKERS)
@given(text=TEXTS, separator=st.sampled_from(SEPARATORS))
@settings(max_examples=150, deadline=None)
def test_steps_end_where_decoded_text_has_the_separator(kind, text, separator):
    ids = make(kind).encode(text)
    assert ends(make_detector(kind, separator), ids) == decoded_ends(make(kind), separator, ids)


@given(ids=st.lists(st.integers(0, len(make("byte-level")) - 1), max_size=40), separator=st.sampled_from(SEPARATORS))
@settings(max_examples=150, deadline=None)
def test_tokens_that_are_no_text_hide_no_separator(ids, separator):
    ids += make("byte-level").encode(separator)
    assert ends(make_detector("byte-level", separator), ids) == decoded_ends(make("byte-level"), separator, ids)


@pytest.mark.parametrize("kind", MAKERS)
@pytest.mark.parametrize("separator", ["。\n", " ки", "👎"])
def test_separators_whose_characters_are_split_are_found(kind, separator):
    tokenizer = make(kind)
    ids = tokenizer.encode("猫" + separator + "猫")
    found = ends(make_detector(kind, separator), ids)
    assert sum(found) == 1
    assert tokenizer.decode(ids[: found.index(True) + 1]).strip(" ") == "猫" + separator
    # Otherwise nothing would be tested here.
    assert "👎" not in tokenizer.batch_decode([[token] for token in range(len(tokenizer))])


@pytest.mark.parametrize("kind", MAKERS)
def test_bytes_of_the_tokens_are_those_of_the_text(kind):
    tokenizer = make(kind)
    pieces = token_bytes(tokenizer, len(tokenizer))
    # The second part has every byte of UTF-8 but a few that start characters.
    text = "a" + "".join(FRAGMENTS) + "".join(map(chr, [*range(0x180), *range(0x400, 0x440), 0x10FFFF]))
    ids = tokenizer.encode(text)
    joined = b"".join(pieces[token] for token in ids).decode()
    # "▁" in a text is a space where spaces are "▁" in the vocabulary, and the text begins with one there.
    assert joined == text or joined == " " + text.replace("▁", " ")
    assert pieces[tokenizer.convert_tokens_to_ids("<stop>")] == b"<stop>"


def test_added_tokens_of_byte_level_vocabularies_are_literal():
    tokenizer = make("byte-level")
    pieces = token_bytes(tokenizer, len(tokenizer))
    for text in ("<end▁of▁text>", "    ", "<fín>"):
        assert pieces[tokenizer.convert_tokens_to_ids(text)] == text.encode()


def test_ids_without_a_token_add_nothing_and_ids_beyond_the_model_are_left_out():
    pieces = token_bytes(whole_words(["a", "b", "c"]), 5)
    assert pieces == [b"a", b"b", b"c", b"", b""]
    assert token_bytes(whole_words(["a", "b", "c"]), 2) == [b"a", b"b"]
    detector = StepDetector.from_tokenizer(whole_words(["a", "b"]), "ab", 4)
    assert detector.table.shape == (3, 4)
    assert ends(detector, [0, 3, 1, 3, 1]) == [False, False, True, False, False]


def test_names_like_bytes_are_text_without_byte_fallback():
    assert token_bytes(whole_words(["<0x41>", "▁a"]), 2) == [b"<0x41>", "▁a".encode()]


def test_separator_inside_across_and_overlapping_tokens():
    tokenizer = whole_words(["a", "\n", "\n\n", "b\n", "\n\nc", "aa", "ab"])
    blank_line, aab, nested = (StepDetector.from_tokenizer(tokenizer, text, 7) for text in ("\n\n", "aab", "aabaaab"))
    assert ends(blank_line, [0, 2, 0]) == [False, True, False]
    assert ends(blank_line, [3, 1, 1]) == [False, True, False]
    assert ends(blank_line, [0, 4, 1]) == [False, True, False]
    # "aaab" holds "aab" from its second character on: the automaton must fall back, not start again.
    assert ends(aab, [0, 0, 6]) == [False, False, True]
    assert ends(nested, [0, 6, 0, 6, 5, 6]) == [False] * 5 + [True]


def test_separator_ids():
    detector = StepDetector.from_ids([2], 4)
    assert detector.advance(np.zeros(3, np.int16), np.array([1, 2, 3])).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match=r"separator ids must be in \[0, 4\), got \[4\]"):
        StepDetector.from_ids([4], 4)


def test_separators_that_no_tokens_spell_are_refused():
    with pytest.raises(ValueError, match="separator must not be empty"):
        StepDetector.from_tokenizer(whole_words(["a"]), "", 1)
    # The last has a token for its end, but none for its start.
    for pieces, separator in ((["a"], "b"), (["ab"], "aa"), (["a", "\n"], "。\n")):
        with pytest.raises(ValueError, match="no tokens of the vocabulary can end the separator"):
            StepDetector.from_tokenizer(whole_words(pieces), separator, len(pieces))
