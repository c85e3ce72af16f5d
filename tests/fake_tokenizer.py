"""A tokenizer that behaves as a real one does, without files: one token for each byte."""

from __future__ import annotations

import codecs
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from server.core.errors import InvalidRequest
from server.core.ports import Detokenizer

BEGIN, END = 256, 257
VOCABULARY = 258


@dataclass(frozen=True, slots=True)
class FakeDialect:
    """A template that knows neither tools nor reasoning, changed."""

    variables: frozenset[str] = frozenset()
    call_kind: Literal["object", "list", "header", "bare", "text"] | None = None
    call_start: str = ""
    call_end: str = ""
    think_start: str = ""
    think_end: str = ""
    special: Mapping[str, int] = field(default_factory=dict)

    def parse_calls(
        self, text: str, tools: Sequence[Mapping[str, Any]]
    ) -> Sequence[tuple[str, str]]:
        """``name:JSON`` lines."""
        del tools
        pairs = (line.partition(":") for line in text.strip().splitlines())
        return [(name, arguments) for name, _, arguments in pairs]


def _line(message: Mapping[str, Any]) -> str:
    more = {key: value for key, value in message.items() if key not in ("role", "content")}
    return f"<{message['role']}>{message['content']}{json.dumps(more) if more else ''}\n"


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

    def __init__(self, *, max_context: int = 512, dialect: FakeDialect | None = None) -> None:
        self.max_context = max_context
        self.dialect = dialect or FakeDialect()

    def encode(self, text: str) -> list[int]:
        """The begin token and the text's bytes."""
        return [BEGIN, *text.encode()]

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template_kwargs: Mapping[str, Any],
        ending: Literal["open", "continue", "closed"] = "open",
    ) -> list[int]:
        """Variables, then a line for each message; opens no turn of the assistant's after another.

        What a message has beside its content stands behind it as JSON.
        """
        head = f"{json.dumps(template_kwargs)}\n" if template_kwargs else ""
        lines = head + "".join(map(_line, messages))
        if ending == "continue":
            return self.encode(lines.removesuffix("\n"))
        if ending == "open" and messages[-1]["role"] == "assistant":
            raise InvalidRequest("the last message must not be the assistant's", param="messages")
        return self.encode(lines + ("<assistant>" if ending == "open" else ""))

    special_tokens = frozenset({BEGIN, END})

    def spell(self, text: str) -> list[int]:
        """The text's bytes."""
        return list(text.encode())

    def definition(self) -> None:
        """There is no tokenizer.json."""
        return

    def detokenizer(self) -> Detokenizer:
        """Decodes UTF-8 as it arrives."""
        return _Utf8()

    def token_bytes(self, token: int) -> bytes:
        """The byte; nothing for the begin and the end token."""
        return bytes([token]) if token < BEGIN else b""
