"""Text from tokens: whole characters only, and the same text as decoding all tokens at once."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from adapters.base import detokenize
from adapters.base.detokenize import (
    Alphabet,
    Detokenizer,
    TableDetokenizer,
    WindowDetokenizer,
    byte_table,
    read_alphabet,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=40)
SPACE = "\u2581"


def pieces(detokenizer: Detokenizer, tokens: list[int]) -> list[str]:
    """What each token completes, and what is left at the end."""
    return [*(detokenizer.add(token) for token in tokens), detokenizer.finish()]


def state(decoder: Any) -> Any:
    """A decoder as tokenizer.json has it."""
    return json.loads(decoder.__getstate__())


def sentencepiece(*, strip: bool) -> Any:
    """A small sentencepiece-like tokenizer: some words, letters, and all bytes."""
    words = [SPACE, f"{SPACE}a", f"{SPACE}the", "the", "a", "b", "é"]
    vocabulary = {f"<0x{byte:02X}>": byte for byte in range(256)}
    vocabulary |= {word: 256 + rank for rank, word in enumerate(words)}
    model = models.BPE(vocab=vocabulary, merges=[(SPACE, "a")], byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    scheme = "always" if strip else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if strip:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    return tokenizer


TOKENIZERS = {strip: sentencepiece(strip=strip) for strip in (True, False)}


def table_of(tokenizer: Any) -> tuple[tuple[bytes, ...], Alphabet]:
    """A tokenizer's byte table and alphabet."""
    alphabet = read_alphabet(state(tokenizer.decoder))
    assert alphabet is not None
    tokens = [tokenizer.id_to_token(id_) for id_ in range(tokenizer.get_vocab_size())]
    return byte_table(tokens, {}, alphabet), alphabet


@given(TEXT, st.booleans())
def test_sentencepiece_text_is_what_the_tokenizer_decodes(text: str, strip: bool) -> None:
    """Spaces, bytes of characters outside the vocabulary, and the space that the encoder adds."""
    tokenizer = TOKENIZERS[strip]
    tokens = tokenizer.encode(text).ids
    table, alphabet = table_of(tokenizer)
    assert alphabet.strip is strip
    streamed = pieces(TableDetokenizer(table, strip=strip), tokens)
    assert "".join(streamed) == tokenizer.decode(tokens, skip_special_tokens=False)


@given(TEXT, st.lists(st.integers(0, 200), max_size=20))
def test_no_cut_through_a_character_shows(text: str, cuts: list[int]) -> None:
    """Tokens may end anywhere inside a character: it appears whole, with its last byte."""
    data = text.encode()
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    table = [data[start:end] for start, end in itertools.pairwise(edges)]
    streamed = pieces(TableDetokenizer(table, strip=False), list(range(len(table))))
    assert "".join(streamed) == text
    for rank, piece in enumerate(streamed[:-1]):
        arrived = data[: edges[rank + 1]].decode(errors="ignore")
        assert "".join(streamed[: rank + 1]) == arrived
        assert "\ufffd" not in piece or "\ufffd" in text


@given(TEXT)
def test_a_window_gives_the_same_text_as_the_whole(text: str) -> None:
    """The way for unknown tokenizers: decode a little, again and again."""
    for tokenizer in TOKENIZERS.values():
        tokens = tokenizer.encode(text).ids
        streamed = pieces(WindowDetokenizer(tokenizer.decode), tokens)
        assert "".join(streamed) == tokenizer.decode(tokens)


def test_a_window_stays_short_whatever_the_model_writes() -> None:
    """Bytes that never become a character must not make each token dearer than the last."""
    longest = 0

    def decode(tokens: list[int]) -> str:
        nonlocal longest
        longest = max(longest, len(tokens))
        return "\ufffd" * len(tokens)

    streamed = pieces(WindowDetokenizer(decode), [0] * 1000)
    assert "".join(streamed) == "\ufffd" * 1000
    assert longest <= 2 * WindowDetokenizer._LONGEST


def test_an_unfinished_character_is_replaced_at_the_end() -> None:
    """A generation that stops within a character still ends with text."""
    table = ["é".encode()[:1]]
    assert pieces(TableDetokenizer(table, strip=False), [0]) == ["", "\ufffd"]


def test_only_the_first_space_of_a_text_is_dropped() -> None:
    """The encoder adds one; the model's own stay, also where the first token is empty."""
    table = [b"", b" a", b"  b"]
    assert pieces(TableDetokenizer(table, strip=True), [0, 1, 1, 2]) == ["", "a", " a", "  b", ""]
    assert pieces(TableDetokenizer(table, strip=True), [2, 1]) == [" b", " a", ""]


@given(st.binary(max_size=8))
def test_the_byte_alphabet_is_the_tokenizers_own(data: bytes) -> None:
    """All 256 bytes: spelled by the library's alphabet, read back by ours."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    assert sorted(detokenize._BYTE_OF) == alphabet
    spelled = {byte: character for character, byte in detokenize._BYTE_OF.items()}
    assert detokenize._byte_level("".join(spelled[byte] for byte in data)) == data
    assert (
        decoders.ByteLevel().decode([spelled[byte] for byte in "aé日🎉 \n".encode()]) == "aé日🎉 \n"
    )


def test_added_tokens_stand_for_their_own_text() -> None:
    """A special token is not spelled in the alphabet, even where its letters are in it."""
    tokens = ["\u0120a", "\u0120a", None]
    table = byte_table(tokens, {1: "\u0120a"}, Alphabet("byte-level"))
    assert table == (b" a", "\u0120a".encode(), b"")


@pytest.mark.parametrize(
    ("decoder", "alphabet"),
    [
        (decoders.ByteLevel(), Alphabet("byte-level")),
        (decoders.Sequence([decoders.Fuse(), decoders.ByteLevel()]), Alphabet("byte-level")),
        (decoders.Metaspace(), Alphabet("sentencepiece", strip=True)),
        (decoders.Metaspace(prepend_scheme="never"), Alphabet("sentencepiece")),
        (decoders.WordPiece(), None),
        (decoders.BPEDecoder(), None),
        (decoders.Sequence([decoders.Replace(SPACE, "_"), decoders.Fuse()]), None),
        (decoders.Sequence([decoders.Replace(SPACE, " "), decoders.CTC()]), None),
    ],
)
def test_a_decoder_of_an_unknown_kind_is_not_guessed(
    decoder: Any, alphabet: Alphabet | None
) -> None:
    """What is not surely one of the two alphabets is left to the tokenizer's own decoder."""
    assert read_alphabet(state(decoder)) == alphabet


def test_a_tokenizer_without_a_decoder_is_not_guessed() -> None:
    """tokenizer.json may have null there."""
    assert read_alphabet(None) is None
