"""A terminal chat with any OpenAI-compatible server: commands, transcript, streamed answers.

Nothing here prints or reads the terminal: ``server.cli`` gives ``Chat`` a way to write.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from server.address import Address, NoAnswer

HELP = """\
/models          list the models
/model NAME      answer with NAME from now on
/system TEXT     set the system message; without TEXT, remove it
/reset           forget the conversation, keep model and system message
/help            this list
/quit            end (so does Ctrl-D); Ctrl-C stops an answer
"""


class ChatError(Exception):
    """The server cannot be reached or refused; ``str()`` says what, where and how to mend it."""


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the model."""

    text: str


@dataclass(frozen=True, slots=True)
class Command:
    """A line for the program: ``/name argument``."""

    name: str
    argument: str = ""


def parse_line(line: str) -> Say | Command | None:
    """What a line of input means, None for a blank one; ``//x`` says ``/x`` to the model."""
    text = line.strip()
    if not text:
        return None
    if text.startswith("//"):
        return Say(text[1:])
    if text.startswith("/"):
        name, _, argument = text[1:].partition(" ")
        return Command(name, argument.strip())
    return Say(text)


@dataclass(frozen=True, slots=True)
class Transcript:
    """The conversation so far, as OpenAI messages. ``turns`` holds (question, answer) pairs."""

    model: str
    system: str = ""
    turns: tuple[tuple[str, str], ...] = ()

    def messages(self, question: str) -> list[dict[str, str]]:
        """The messages that ask ``question`` next."""
        rows = [("system", self.system)] if self.system else []
        for asked, answered in self.turns:
            rows += [("user", asked), ("assistant", answered)]
        rows.append(("user", question))
        return [{"role": role, "content": content} for role, content in rows]

    def with_turn(self, question: str, answer: str) -> Transcript:
        """The same conversation, one turn longer."""
        return replace(self, turns=(*self.turns, (question, answer)))


def sse_payloads(lines: Iterable[bytes]) -> Iterator[Any]:
    """The JSON values of a server-sent event stream, up to ``[DONE]``.

    Raises ChatError where the stream ends without ``[DONE]`` or carries something else than JSON.
    """
    for line in lines:
        field, _, value = line.strip().partition(b":")
        if field != b"data":
            continue
        value = value.strip()
        if value == b"[DONE]":
            return
        try:
            yield json.loads(value)
        except ValueError as error:
            raise ChatError(f"The server's stream is not JSON: {value[:80]!r} ({error}).") from None
    raise ChatError("The server closed the connection before the end of the answer.")


class Client:
    """The two routes that a chat needs, on one server."""

    def __init__(
        self, url: str, *, timeout_s: float = 600.0, temperature: float | None = None
    ) -> None:
        """``url`` is the server's root, with or without ``/v1``; ``timeout_s`` bounds a silence.

        ``temperature`` goes with every question; None leaves it to the server.

        Raises ChatError for anything but an http(s) URL.
        """
        try:
            self._address = Address(url)
        except ValueError as error:
            raise ChatError(str(error)) from None
        self._timeout_s = timeout_s
        self._sampling = {} if temperature is None else {"temperature": temperature}

    def models(self) -> list[str]:
        """Every listed model id, in the server's order."""
        with self._open("GET", "/v1/models") as response:
            return [row["id"] for row in json.load(response)["data"]]

    def check_model(self, name: str) -> None:
        """Raise ChatError, with the server's reason, unless ``name`` can be used as a model."""
        with self._open("GET", f"/v1/models/{quote(name, safe='')}"):
            pass

    def answer(self, model: str, messages: Sequence[dict[str, str]]) -> Generator[str]:
        """The answer's text, piece by piece; closing the iterator early cancels it there."""
        body = {"model": model, "messages": list(messages), "stream": True, **self._sampling}
        with self._open("POST", "/v1/chat/completions", body) as response:
            for chunk in sse_payloads(response):
                if "error" in chunk:
                    raise ChatError(_message(chunk))
                for choice in chunk.get("choices", ()):
                    yield choice.get("delta", {}).get("content") or ""

    @contextmanager
    def _open(
        self, method: str, path: str, body: dict[str, Any] | None = None
    ) -> Iterator[http.client.HTTPResponse]:
        data = None if body is None else json.dumps(body).encode()
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            with self._address.connected(self._timeout_s) as connection:
                connection.request(method, self._address.root + path, data, headers)
                response = connection.getresponse()
                if response.status != http.HTTPStatus.OK:
                    raise ChatError(f"{_refusal(response.read())} (HTTP {response.status})")
                yield response
        except NoAnswer as error:
            raise ChatError(str(error)) from None


class Chat:
    """One conversation: lines in, text out."""

    def __init__(self, client: Client, write: Callable[[str], None], *, model: str = "") -> None:
        """``write`` receives pieces of text. An empty ``model`` means the server's first one.

        Raises ChatError where the server does not answer, lists nothing or refuses ``model``.
        """
        self._client = client
        self._write = write
        if model:
            client.check_model(model)
        else:
            names = client.models()
            if not names:
                raise ChatError("The server lists no model. Name one with --model.")
            model = names[0]
        self._transcript = Transcript(model)

    @property
    def model(self) -> str:
        """The name that answers."""
        return self._transcript.model

    def handle(self, line: str) -> bool:
        """Act on one line; False when the conversation is over.

        Raises ChatError where the server fails or a command is wrong; the conversation can go on.
        """
        match parse_line(line):
            case None:
                pass
            case Say(text=text):
                self._ask(text)
            case Command(name="quit" | "exit"):
                return False
            case Command(name=name, argument=argument):
                self._obey(name, argument)
        return True

    def _ask(self, question: str) -> None:
        pieces: list[str] = []
        answer = self._client.answer(self.model, self._transcript.messages(question))
        try:
            for piece in answer:
                pieces.append(piece)
                self._write(piece)
        except KeyboardInterrupt:
            # What was seen stays in the conversation, as the user may refer to it.
            self._write(" [stopped]")
        finally:
            answer.close()
            self._write("\n")
        self._transcript = self._transcript.with_turn(question, "".join(pieces))

    def _obey(self, name: str, argument: str) -> None:
        match name, argument:
            case ("models", _) | ("model", ""):
                for model in self._client.models():
                    self._write(f"{'*' if model == self.model else ' '} {model}\n")
            case "model", _:
                self._client.check_model(argument)
                self._transcript = replace(self._transcript, model=argument)
                self._write(f"model: {argument}\n")
            case "system", _:
                self._transcript = replace(self._transcript, system=argument)
                self._write("system message set\n" if argument else "system message removed\n")
            case "reset", _:
                self._transcript = replace(self._transcript, turns=())
                self._write("conversation forgotten\n")
            case "help", _:
                self._write(HELP)
            case _:
                raise ChatError(
                    f"No such command: /{name}. /help lists them; '//' starts a line with '/'."
                )


def _refusal(body: bytes) -> str:
    try:
        return _message(json.loads(body))
    except ValueError:
        return f"The server refused: {body[:200].decode(errors='replace')}"


def _message(body: Any) -> str:
    """The message of an OpenAI error body, or the body where it is none."""
    match body:
        case {"error": {"message": str(message)}} | {"error": str(message)}:
            return message
        case _:
            return f"The server refused: {json.dumps(body)[:200]}"
