"""The content blocks of a message in the making."""

from __future__ import annotations

import json

from server.api.wire import Body

_NO_JSON = "INVALID_JSON"
"""The reference's name for an input that is none, as where a limit has cut it off."""


class TextOut:
    """Text for the user."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def add(self, text: str) -> Body:
        """The delta of more text."""
        self._text.append(text)
        return {"type": "text_delta", "text": text}

    def body(self) -> Body:
        """The block as it is now."""
        return {"type": "text", "text": "".join(self._text)}


class ThinkingOut:
    """Reasoning. Nothing is signed: whoever runs this server can make it think anything."""

    def __init__(self) -> None:
        self._text: list[str] = []

    def add(self, text: str) -> Body:
        """The delta of more reasoning."""
        self._text.append(text)
        return {"type": "thinking_delta", "thinking": text}

    def body(self) -> Body:
        """The block as it is now."""
        return {"type": "thinking", "thinking": "".join(self._text), "signature": ""}


class ToolUseOut:
    """A call of one of the client's tools."""

    def __init__(self, call_id: str, name: str) -> None:
        self._id, self._name = call_id, name
        self._json: list[str] = []

    def add(self, text: str) -> Body:
        """The delta of more of the input's JSON."""
        self._json.append(text)
        return {"type": "input_json_delta", "partial_json": text}

    def body(self) -> Body:
        """The block as it is now."""
        return {"type": "tool_use", "id": self._id, "name": self._name, "input": self._input()}

    def _input(self) -> Body:
        text = "".join(self._json)
        if not text:
            return {}
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            value = None
        return value if isinstance(value, dict) else {_NO_JSON: text}


Block = TextOut | ThinkingOut | ToolUseOut
