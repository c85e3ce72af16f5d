"""The load: what is asked, of which model, by how many streams at once."""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scripts.bench.stats import Trace
from server.chat import ChatError, sse_payloads

# fmt: off
_WORDS = [
    "time", "year", "people", "way", "day", "man", "thing", "woman", "life", "child", "world",
    "school", "state", "family", "student", "group", "country", "problem", "hand", "part",
    "place", "case", "week", "company", "system", "program", "question", "work", "government",
    "number", "night", "point", "home", "water", "room", "mother", "area", "money", "story",
    "fact", "month", "lot", "right", "study", "book", "eye", "job", "word", "business", "issue",
    "side", "kind", "head", "house", "service", "friend", "father", "power", "hour", "game",
    "line", "end", "member", "law", "car", "city", "community", "name", "president", "team",
    "minute", "idea", "kid", "body", "information", "back",
]
# fmt: on

_RETRY_S = 0.02


class LoadError(Exception):
    """A request of the load failed; a benchmark with failed requests reports nothing."""


@dataclass(frozen=True, slots=True)
class Load:
    """``streams`` clients at once, each sending ``requests`` one after the other.

    ``prompt_words`` is close to the prompt's length in tokens, as the words are common ones.
    ``output_tokens`` is the most that is asked for; see ``Target.exact``. Request k of stream s
    uses model number ``(s + k) % len(models)`` of the scenario.
    """

    streams: int
    requests: int
    prompt_words: int
    output_tokens: int


@dataclass(frozen=True, slots=True)
class Target:
    """A server under test: its address, and the request fields that name each model.

    With ``exact`` an answer that ends before ``Load.output_tokens`` is an error: the model's end
    token was to be out of reach, and another length would measure another load.
    """

    url: str
    models: Sequence[Mapping[str, Any]]
    exact: bool = True


def prompt(seed: str, words: int) -> str:
    """A text of common words that no other seed shares, from its first word on."""
    draw = random.Random(seed)
    return " ".join([*draw.sample(_WORDS, 6), *draw.choices(_WORDS, k=max(words - 6, 0))])


def run_load(target: Target, load: Load, *, seed: str, timeout_s: float) -> list[Trace]:
    """Run the whole load and return a trace for each request.

    All streams start together. Raises LoadError for the first request that failed or when
    ``timeout_s`` is over; no thread is left behind then, because every socket has that deadline.
    """
    deadline = time.perf_counter() + timeout_s
    start = threading.Barrier(load.streams)
    traces: list[Trace] = []
    errors: list[Exception] = []

    def stream(number: int) -> None:
        try:
            start.wait(timeout_s)
            for index in range(load.requests):
                if errors:
                    return
                body = _body(target, load, number, index, seed)
                trace = _request(target.url, body, deadline)
                if target.exact and trace.output_tokens != load.output_tokens:
                    raise LoadError(f"{trace.output_tokens} tokens, not {load.output_tokens}")
                traces.append(trace)
        except (OSError, http.client.HTTPException, ChatError, LoadError, ValueError) as error:
            errors.append(error)

    threads = [threading.Thread(target=stream, args=(number,)) for number in range(load.streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise LoadError(f"{target.url}: {type(errors[0]).__name__}: {errors[0]}") from errors[0]
    return traces


def _body(target: Target, load: Load, stream: int, index: int, seed: str) -> dict[str, Any]:
    model = target.models[(stream + index) % len(target.models)]
    text = prompt(f"{seed}/{stream}/{index}", load.prompt_words)
    return {
        "messages": [{"role": "user", "content": text}],
        "max_tokens": load.output_tokens,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        **model,
    }


def _request(url: str, body: Mapping[str, Any], deadline: float) -> Trace:
    sent = time.perf_counter()
    connection, response = _send(url, json.dumps(body).encode(), deadline)
    try:
        if response.status != http.HTTPStatus.OK:
            raise LoadError(f"HTTP {response.status}: {response.read(500)!r}")
        # Only time stamps while it runs: parsing here would compete with the server for a core.
        lines: list[tuple[float, bytes]] = []
        for line in response:
            now = time.perf_counter()
            if now > deadline:
                raise LoadError("out of time within an answer")
            if line.startswith(b"data:"):
                lines.append((now, line))
    finally:
        connection.close()
    return trace_of(sent, lines)


def _send(
    url: str, data: bytes, deadline: float
) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:
    """Send one request and wait for the head of its answer.

    A connection that is refused or reset before that is tried again: mlx_lm.server listens with a
    backlog of five, so that sixteen clients at once lose some. The wait counts as the server's.
    """
    parts = urlsplit(url)
    while (left := deadline - time.perf_counter()) > 0:
        connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=left)
        try:
            connection.request(
                "POST", "/v1/chat/completions", data, {"Content-Type": "application/json"}
            )
            return connection, connection.getresponse()
        except (ConnectionError, http.client.RemoteDisconnected):
            connection.close()
            time.sleep(_RETRY_S)
        except BaseException:
            connection.close()
            raise
    raise LoadError("out of time before an answer began")


def trace_of(sent: float, lines: Sequence[tuple[float, bytes]]) -> Trace:
    """The trace of one answer from its ``data:`` lines and their arrivals.

    Raises LoadError where the answer is empty, ended in an error or has no usage report.
    """
    chunks: list[float] = []
    usage: Mapping[str, Any] | None = None
    payloads = sse_payloads(line for _, line in lines)
    for (at, _), payload in zip(lines, payloads, strict=False):
        if "error" in payload:
            raise LoadError(f"the stream ended in {payload['error']}")
        usage = payload.get("usage") or usage
        choices = payload.get("choices") or [{}]
        if choices[0].get("delta", {}).get("content"):
            chunks.append(at)
    if not chunks:
        raise LoadError("an answer without text")
    if usage is None:
        raise LoadError("no usage report; the server must honour stream_options.include_usage")
    details = usage.get("prompt_tokens_details") or {}
    return Trace(
        sent=sent,
        chunks=tuple(chunks),
        prompt_tokens=usage["prompt_tokens"],
        output_tokens=usage["completion_tokens"],
        cached_tokens=details.get("cached_tokens") or 0,
    )
