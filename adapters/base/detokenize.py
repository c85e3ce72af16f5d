"""From token ids to text, one token at a time, without ever splitting a character.

Two families of vocabulary cover nearly every model: byte-level BPE, whose tokens spell bytes in
GPT-2's printable alphabet, and sentencepiece, whose tokens are text with ``▁`` for a space and
``<0xAB>`` for a byte. For both a table gives the bytes of each token, and an incremental UTF-8
decoder does the rest. Any other tokenizer is asked to decode a short window again and again.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

_BYTE_PIECE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "\u2581"


class Detokenizer(Protocol):
    """Text of one growing token sequence, never splitting a character."""

    def add(self, token: int) -> str:
        """The text that ``token`` completes, possibly empty."""
        ...

    def finish(self) -> str:
        """What is left when no token follows; bytes that are no character become U+FFFD."""
        ...


@dataclass(frozen=True, slots=True)
class Alphabet:
    """How a vocabulary spells bytes.

    ``kind`` is "byte-level" or "sentencepiece"; with ``strip`` one space is dropped where a text
    begins, because the encoder has put one there.
    """

    kind: str
    strip: bool = False


def read_alphabet(decoder: Any) -> Alphabet | None:
    """The alphabet that a tokenizer.json's ``decoder`` belongs to, or None for another kind."""
    parts = _flatten(decoder)
    kinds = {part.get("type") for part in parts}
    if "ByteLevel" in kinds:
        return Alphabet("byte-level")
    metaspace = next((part for part in parts if part.get("type") == "Metaspace"), None)
    if metaspace is not None:
        scheme = metaspace.get("prepend_scheme", "always")
        return Alphabet("sentencepiece", strip=scheme != "never")
    spaces = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    if spaces in parts and kinds <= {"Replace", "ByteFallback", "Fuse", "Strip"}:
        strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
        return Alphabet("sentencepiece", strip=strip in parts)
    return None


def byte_table(
    tokens: Sequence[str | None], literal: Mapping[int, str], alphabet: Alphabet
) -> tuple[bytes, ...]:
    """The bytes of every token. ``literal`` holds added tokens, which stand for their own text.

    None in ``tokens`` is an id that the tokenizer does not know; it stands for nothing.
    """
    spell = _byte_level if alphabet.kind == "byte-level" else _sentencepiece
    return tuple(
        literal[id_].encode() if id_ in literal else b"" if token is None else spell(token)
        for id_, token in enumerate(tokens)
    )


class TableDetokenizer:
    """Constant work for each token, by a table of bytes."""

    def __init__(self, table: Sequence[bytes], *, strip: bool) -> None:
        self._table = table
        self._strip = strip
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        """The characters that ``token`` completes."""
        return self._trim(self._decoder.decode(self._table[token]))

    def finish(self) -> str:
        """Replacement characters for an unfinished one."""
        return self._trim(self._decoder.decode(b"", final=True))

    def _trim(self, text: str) -> str:
        if not self._strip or not text:
            return text
        self._strip = False
        return text.removeprefix(" ")


class WindowDetokenizer:
    """For any tokenizer: decodes the tokens since the last complete text, with that text before.

    The text before is needed because a decoder may treat a token differently where a text begins.
    A window stays a few tokens long, since it moves on whenever a character is complete, and at the
    latest after ``_LONGEST`` tokens, which no character takes.
    """

    _LONGEST = 16

    def __init__(self, decode: Callable[[list[int]], str]) -> None:
        self._decode = decode
        self._context: list[int] = []
        self._pending: list[int] = []

    def add(self, token: int) -> str:
        """The text that is complete with ``token``; empty while its last character is not."""
        self._pending.append(token)
        text = self._new_text()
        if (not text or text.endswith("\ufffd")) and len(self._pending) < self._LONGEST:
            return ""
        self._context, self._pending = self._pending, []
        return text

    def finish(self) -> str:
        """Whatever is left."""
        text = self._new_text() if self._pending else ""
        self._context, self._pending = self._pending, []
        return text

    def _new_text(self) -> str:
        before = self._decode(self._context) if self._context else ""
        return self._decode(self._context + self._pending)[len(before) :]


def _flatten(decoder: Any) -> list[Mapping[str, Any]]:
    if not isinstance(decoder, Mapping):
        return []
    if decoder.get("type") == "Sequence":
        return [part for inner in decoder.get("decoders", ()) for part in _flatten(inner)]
    return [decoder]


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character of each byte: itself where visible, else from U+0100 on."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(0x100 + rank): byte for rank, byte in enumerate(hidden)
    }


_BYTE_OF = _byte_alphabet()


def _byte_level(token: str) -> bytes:
    if all(character in _BYTE_OF for character in token):
        return bytes(_BYTE_OF[character] for character in token)
    return token.encode()


def _sentencepiece(token: str) -> bytes:
    byte = _BYTE_PIECE.fullmatch(token)
    return bytes([int(byte[1], 16)]) if byte else token.replace(_SPACE, " ").encode()
