"""The chat's HTTP client: addresses, streams, and what it says where no answer comes."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from server.chat import ChatError, Client, sse_payloads
from tests.live_server import live_server


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_the_url_may_name_the_root_or_v1(tail: str) -> None:
    """Both forms that people write work."""
    with live_server() as server:
        assert Client(server.url + tail).models() == ["tiny", "tiny:pirate"]


@pytest.mark.parametrize("url", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:port"])
def test_something_else_than_an_address_is_refused(url: str) -> None:
    """The error shows what an address looks like."""
    with pytest.raises(ChatError, match=r"http://127\.0\.0\.1:8000"):
        Client(url)


def test_a_server_that_is_not_there_is_told_with_the_cure() -> None:
    """Nobody listens: the message names the address and how to start a server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ChatError, match=rf"http://127\.0\.0\.1:{port}.*chainlora serve"):
        Client(f"http://127.0.0.1:{port}").models()


def test_a_silent_server_is_told_after_the_timeout() -> None:
    """A server that accepts and never answers does not hold the terminal for ever."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        pytest.raises(ChatError, match=r"silent for 0\.05 s"),
    ):
        Client(f"http://127.0.0.1:{listener.getsockname()[1]}", timeout_s=0.05).models()


def test_a_refusal_that_is_not_json_is_shown() -> None:
    """Some other program behind the port: its words are shown, not a traceback."""
    with (
        _answering(b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\noops") as url,
        pytest.raises(ChatError, match=r"oops.*HTTP 500"),
    ):
        Client(url).models()


def test_a_stream_that_breaks_off_is_told() -> None:
    """A connection that ends before [DONE] is an error, not an answer."""
    with pytest.raises(ChatError, match="before the end"):
        list(sse_payloads([b'data: {"a": 1}\n', b"\n"]))


def test_a_stream_yields_its_payloads_and_nothing_else() -> None:
    """Comments, blank lines and other fields are skipped; [DONE] ends."""
    lines = [b": keepalive\n", b"event: x\n", b'data: {"a": 1}\n', b"\n", b"data:[2]\r\n"]
    assert list(sse_payloads([*lines, b"data: [DONE]\n", b"data: no\n"])) == [{"a": 1}, [2]]


def test_a_stream_of_something_else_is_told() -> None:
    """What is not JSON is shown in the error."""
    with pytest.raises(ChatError, match=r"not JSON.*<html>"):
        list(sse_payloads([b"data: <html>\n"]))


@contextmanager
def _answering(answer: bytes) -> Iterator[str]:
    """A server that answers one connection with fixed bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(20)
