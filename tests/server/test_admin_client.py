"""The client of the admin routes: addresses, refusals, uploads, streams."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from server.admin_client import AdminClient, AdminError, Unreachable, parse_events
from tests.administration.fakes import Administration
from tests.live_server import LIMITS, live_server


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """A server that answers each connection with fixed bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            for answer in answers:
                connection, _ = listener.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(answer)

        thread = threading.Thread(target=run)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        thread.join(20)


def http(body: bytes, *, status: str = "200 OK") -> bytes:
    """A response."""
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Administration:
    """What lies behind the server."""
    return Administration(tmp_path_factory.mktemp("incoming"))


@pytest.fixture(scope="module")
def url(behind: Administration) -> Iterator[str]:
    """A server that takes uploads up to 2 MiB."""
    limits = replace(LIMITS, max_upload_bytes=2**21)
    with live_server(**{**behind.parts(), "limits": limits}) as server:
        yield server.url


def test_the_client_needs_the_standard_library_alone() -> None:
    """A machine that only steers has no MLX, no pydantic and no web framework."""
    code = (
        "import sys, server.stage_cli, server.chain_cli;"
        "print(*{name.partition('.')[0] for name in sys.modules} - {*sys.stdlib_module_names})"
    )
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True)
    assert set(done.stdout.split()) - {"__main__"} == {"server"}, done.stderr


@pytest.mark.parametrize("tail", ["", "/", "/v1", "/v1/"])
def test_the_url_may_name_the_root_or_v1(url: str, tail: str) -> None:
    """Both forms that people write work."""
    assert AdminClient(url + tail).get("chains")["object"] == "list"


@pytest.mark.parametrize("wrong", ["", "127.0.0.1:8000", "ftp://x", "http://", "http://x:port"])
def test_something_else_than_an_address_is_refused(wrong: str) -> None:
    """The error shows what an address looks like."""
    with pytest.raises(AdminError, match=r"http://127\.0\.0\.1:8000"):
        AdminClient(wrong)


def test_a_refusal_is_the_server_s_own_message(url: str) -> None:
    """With its status and code for programs."""
    with pytest.raises(AdminError, match=r"There is no stage 'a\\\\b'") as caught:
        AdminClient(url).get("stages", "a\\b")
    assert (caught.value.status, caught.value.code) == (404, "stage_not_found")


def test_a_server_that_is_not_there_is_told_with_the_cure() -> None:
    """The message names the address and how to start a server."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match=rf"http://127\.0\.0\.1:{port}.*chainlora serve"):
        AdminClient(f"http://127.0.0.1:{port}").get("chains")


def test_a_silent_server_is_told_after_the_timeout() -> None:
    """A server that accepts and never answers does not hold the terminal for ever."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        with pytest.raises(Unreachable, match=r"silent for 0\.05 s"):
            AdminClient(url, timeout_s=0.05).get("chains")


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (http(b"oops", status="500 No"), r"oops.*HTTP 500"),
        (http(b'{"detail": 1}', status="500 No"), r"detail.*HTTP 500"),
        (http(b"<html>"), "no JSON object"),
        (http(b"[]"), "no JSON object"),
        (b"SMTP ready\r\n", "No answer"),
        (b"", "No answer"),
    ],
)
def test_another_program_s_answer_is_shown_and_not_believed(answer: bytes, said: str) -> None:
    """Its words, not a traceback."""
    with answering(answer) as url, pytest.raises(AdminError, match=said):
        AdminClient(url).get("chains")


def test_a_file_is_uploaded_under_its_name(
    url: str, behind: Administration, tmp_path: Path
) -> None:
    """Byte by byte the same."""
    path = tmp_path / "r\u00e4ws & co.jsonl"
    path.write_bytes(b'{"a": 1}\n' * 50_000)
    row = AdminClient(url).upload(path)
    assert (row["name"], row["rows"]) == (path.name, 50_000)
    assert behind.state.contents[row["id"]] == path.read_bytes()


@pytest.mark.parametrize("size", [2**21, 2**25])
def test_a_refused_upload_tells_why(url: str, tmp_path: Path, size: int) -> None:
    """Also where the server hangs up before all is sent."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b" " * size)
    with pytest.raises(AdminError, match="max_upload_bytes"):
        AdminClient(url).upload(path)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_file_that_cannot_be_read_is_named(url: str, tmp_path: Path, name: str) -> None:
    """Before anything is sent."""
    with pytest.raises(AdminError, match=r"Cannot read .*: "):
        AdminClient(url).upload(tmp_path / name)


def test_events_are_read_until_the_server_ends_them(url: str, behind: Administration) -> None:
    """From the beginning, from the middle, and after the end."""
    client = AdminClient(url)
    stage = client.post("stages", body={"chain": "a", "examples": [{}]})["id"]
    behind.stages.succeed(stage)
    events = list(client.events(stage))
    assert [event["data"]["state"] for event in events][-1] == "succeeded"
    assert list(client.events(stage, after=events[0]["id"])) == events[1:]
    assert list(client.events(stage, after=events[-1]["id"])) == []


def test_an_error_in_the_stream_is_an_error() -> None:
    """The server's message reaches the user."""
    error = json.dumps({"error": {"message": "the store is gone", "code": "store_error"}})
    stream = b"event: error\ndata: " + error.encode() + b"\n\n"
    with answering(http(stream)) as url, pytest.raises(AdminError, match="store is gone") as caught:
        list(AdminClient(url).events("s"))
    assert caught.value.code == "store_error"


def test_a_stream_that_breaks_off_gives_what_was_complete() -> None:
    """Half an event is none; whoever watches looks at the stage and comes back."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b'id: 1\nevent: step\ndata: {"id": 1}\n\nid: 2\nevent: step\ndata: {"id"'
    with answering(head + b"%x\r\n%s\r\n" % (len(chunk), chunk)) as url:
        assert list(AdminClient(url).events("s")) == [{"id": 1}]


def test_a_stream_s_fields_are_read_as_the_standard_says() -> None:
    """Comments and unknown fields are skipped, data lines joined, what is cut left out."""
    lines = [
        b": ping\n", b"\n", b"retry: 5\n", b"\n",
        b"id: 1\n", b"event: step\r\n", b"data: {\n", b"data:}\n", b"\r\n",
        b"data: bare\n", b"\n",
        b"event: cut\n", b"data: off",
    ]  # fmt: skip
    assert list(parse_events(lines)) == [("step", b"{\n}"), ("", b"bare")]
