"""A body without end."""

from __future__ import annotations

import pytest

from tests.server.api.serving import Served

pytestmark = pytest.mark.anyio
HEAD = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"


async def test_an_announced_body_is_refused_before_it_is_sent(server: Served) -> None:
    """Not one byte of a terabyte is waited for."""
    async with server.connection() as connection:
        await connection.send(HEAD + b"content-length: 1000000000000\r\n\r\n")
        status, body = await connection.answer()
    assert (status, body["error"]["code"]) == (413, "request_too_large")


async def test_a_client_that_asks_first_is_refused_before_it_sends(server: Served) -> None:
    """No 100 Continue for what would be refused."""
    async with server.connection() as connection:
        await connection.send(HEAD + b"content-length: 1000000000\r\nexpect: 100-continue\r\n\r\n")
        status, _ = await connection.answer()
    assert status == 413


async def test_a_body_that_announces_nothing_is_counted(server: Served) -> None:
    """Chunked bodies have no length; the limit, a mebibyte here, ends them on the way."""
    async with server.connection() as connection:
        await connection.send(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        for _ in range(17):
            await connection.send(b"10000\r\n" + b" " * 0x10000 + b"\r\n")
        status, body = await connection.answer()
    assert (status, body["error"]["code"]) == (413, "request_too_large")
    assert server.engine.submitted == []


async def test_a_length_that_is_no_number_is_refused(server: Served) -> None:
    """Negative, padded and spelled lengths are a parser's favourite disagreement."""
    for length in (b"-1", b"+5", b"0x10", b"1e3", b"5, 6"):
        async with server.connection() as connection:
            await connection.send(HEAD + b"content-length: " + length + b"\r\n\r\n")
            status, body = await connection.answer()
        assert status == 400
        assert list(body) == ["error"]


async def test_a_body_with_two_lengths_is_refused(server: Served) -> None:
    """Request smuggling lives from it."""
    async with server.connection() as connection:
        await connection.send(HEAD + b"content-length: 5\r\ncontent-length: 6\r\n\r\n{}{}{}")
        status, _ = await connection.answer()
    assert status == 400
