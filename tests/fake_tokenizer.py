"""A tokenizer that behaves as a real one does, without files: one token for each byte."""

from __future__ import annotations

import codecs
from collections.abc import Mapping, Sequence
from typing import Any

from server.core.errors import InvalidRequest
from server.core.ports import Detokenizer

BEGIN, END = 256, 257
VOCABULARY = 258


class _Utf8(Detokenizer):
    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int) -> str:
        return self._decoder.decode(bytes([token]) if token < BEGIN else b"")

    def finish(self) -> str:
        return self._decoder.decode(b"", final=True)


class FakeTokenizer:
    """One token for each byte, a begin and an end token; chats as ``<role>content`` lines."""

    vocab_size = VOCABULARY
    end_tokens = frozenset({END})

    def __init__(self, *, max_context: int = 512) -> None:
        self.max_context = max_context

    def encode(self, text: str) -> list[int]:
        """The begin token and the text's bytes."""
        return [BEGIN, *text.encode()]

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, template_kwargs: Mapping[str, Any]
    ) -> list[int]:
        """One line for each message; refuses a conversation that ends with the assistant."""
        if messages[-1]["role"] == "assistant":
            raise InvalidRequest("the last message must not be the assistant's", param="messages")
        lines = "".join(f"<{message['role']}>{message['content']}\n" for message in messages)
        return self.encode(lines + "<assistant>")

    def detokenizer(self) -> Detokenizer:
        """Decodes UTF-8 as it arrives."""
        return _Utf8()

    def token_bytes(self, token: int) -> bytes:
        """The byte; nothing for the begin and the end token."""
        return bytes([token]) if token < BEGIN else b""
