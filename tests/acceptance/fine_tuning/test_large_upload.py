"""An upload of 512 MB costs the server little memory, and nobody else waits for it."""

from __future__ import annotations

import itertools
import logging
import re
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest

from tests.acceptance.fine_tuning.asking import BASE, BOATS, jsonl
from tests.acceptance.serving.process import started

log = logging.getLogger(__name__)

pytestmark = pytest.mark.slow

MIB = 1 << 20
SIZE = 512 * MIB
MOST_GROWTH = 64 * MIB
BOUNDARY = "harbour"
MOST_WAIT_S = 5.0
"""No speed: a check that keeps the interpreter to itself lets a chat wait for half a minute."""
LEAST_ANSWERS = 20
"""While the rows are checked, which takes many seconds."""


def form(block: bytes, sent: Event) -> Iterator[bytes]:
    """A form with a file of SIZE bytes, ``block`` again and again; ``sent`` when all is."""
    part = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="'
    yield f'{part}purpose"\r\n\r\nfine-tune\r\n{part}file"; filename="big.jsonl"\r\n\r\n'.encode()
    yield from itertools.repeat(block, SIZE // len(block))
    yield f"\r\n--{BOUNDARY}--\r\n".encode()
    sent.set()


def peak(pid: int) -> int:
    """The most bytes that a process has had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024


def chat(http: httpx.Client) -> float:
    """Seconds until a short answer was there."""
    began = time.monotonic()
    asked = {"model": BASE, "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4}
    http.post("/v1/chat/completions", json=asked).raise_for_status()
    return time.monotonic() - began


def upload(url: str, block: bytes, sent: Event) -> httpx.Response:
    """The answer to an upload of SIZE bytes."""
    kind = f"multipart/form-data; boundary={BOUNDARY}"
    headers = {"content-type": kind}
    return httpx.post(f"{url}/v1/files", content=form(block, sent), headers=headers, timeout=280)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize("lines", ["rows", "one line"])
def test_an_upload_of_512_mb_is_not_held_in_memory_and_chats_are_answered_beside_it(
    lines: str, tmp_path: Path, tiny_model: Path
) -> None:
    """Rows end as ``processed``; a line without an end is told by its number.

    ``--log-cli-level=INFO`` shows the figures.
    """
    rows = jsonl(BOATS)
    block = rows * (MIB // len(rows)) if lines == "rows" else b"x" * MIB
    options = ["--port", "0", "--no-supervise"]
    with started(tmp_path, tiny_model, {}, *options) as server:
        url = server.serving()
        with httpx.Client(base_url=url, timeout=60) as http, ThreadPoolExecutor() as pool:
            http.post("/v1/files", data={"purpose": "fine-tune"}, files={"file": rows})
            chat(http)
            before = peak(server.pid)
            sent = Event()
            answer: Future[httpx.Response] = pool.submit(upload, url, block, sent)
            answered = []
            while not answer.done():
                was_sent = sent.is_set()
                took = chat(http)
                if was_sent and not answer.done():
                    answered.append(took)
            told = answer.result()
        growth = peak(server.pid) - before
        assert server.stop() == 0, server.log
    slowest = max(answered, default=0.0)
    log.info("%.1f MiB more; %d chats, the slowest %.2f s", growth / MIB, len(answered), slowest)
    assert growth < MOST_GROWTH
    assert slowest < MOST_WAIT_S
    if lines == "rows":
        assert told.status_code == 200, told.text
        assert (told.json()["status"], told.json()["bytes"]) == (
            "processed",
            SIZE // len(block) * len(block),
        )
        assert len(answered) >= LEAST_ANSWERS
    else:
        error = told.json()["error"]
        assert (told.status_code, error["code"], error["param"]) == (400, "data_error", "file")
        assert [fault["line"] for fault in error["lines"]] == [1]
