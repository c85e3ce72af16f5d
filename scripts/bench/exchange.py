"""One request to a server under test, and the trace of its answer."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from scripts.bench.stats import Trace
from server.chat import sse_payloads

_RETRY_S = 0.02


class LoadError(Exception):
    """A request of the load failed; a benchmark with failed requests reports nothing."""


def exchange(url: str, body: Mapping[str, Any], *, sent: float, deadline: float) -> Trace:
    """Ask for a streamed answer and read it to its end.

    ``sent`` is from when the answer counts as awaited, ``deadline`` when it is given up, both on
    ``time.perf_counter``. Raises LoadError, and OSError or HTTPException of the connection.
    """
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
    said: list[str] = []
    usage: Mapping[str, Any] | None = None
    payloads = sse_payloads(line for _, line in lines)
    for (at, _), payload in zip(lines, payloads, strict=False):
        if "error" in payload:
            raise LoadError(f"the stream ended in {payload['error']}")
        usage = payload.get("usage") or usage
        choices = payload.get("choices") or [{}]
        if text := choices[0].get("delta", {}).get("content"):
            chunks.append(at)
            said.append(text)
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
        text="".join(said),
    )
