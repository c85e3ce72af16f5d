"""Clients that leave: nothing of theirs stays."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.server.api.serving import PIRATE, Served, chat

pytestmark = pytest.mark.anyio


def request(**fields: object) -> bytes:
    """A chat request on the wire."""
    body = json.dumps(chat(model=PIRATE, **fields)).encode()
    return (
        b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\n"
        b"content-type: application/json\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )


async def test_clients_that_leave_in_mid_stream_leave_no_rows(server: Served) -> None:
    """Thirty of them, one after the other, with one row's worth of room for each."""
    server.engine.hold()
    for _ in range(30):
        async with server.connection() as connection:
            await connection.send(request(stream=True))
            await server.engine.until(lambda: server.engine.stats().waiting == 1)
            server.engine.step()
            assert b" 200 " in await connection.reader.readline()
        await server.engine.until(lambda: server.engine.stats().decoding == 0)
    assert len(server.engine.submitted) == 30


@pytest.mark.parametrize("stream", [False, True])
async def test_clients_that_leave_while_they_wait_leave_no_rows(
    server: Served, stream: bool
) -> None:
    """Before the first byte a response has not begun, and still somebody must notice."""
    server.engine.hold()
    for _ in range(10):
        async with server.connection() as connection:
            await connection.send(request(stream=stream))
            await server.engine.until(lambda: server.engine.stats().waiting == 1)
        await server.engine.until(lambda: server.engine.stats().waiting == 0)


async def test_a_connection_that_is_reset_leaves_no_row(server: Served) -> None:
    """A crash of the client sends no polite end."""
    server.engine.hold()
    async with server.connection() as connection:
        await connection.send(request(stream=True))
        await server.engine.until(lambda: server.engine.stats().waiting == 1)
        connection.writer.transport.abort()
        await server.engine.until(lambda: server.engine.stats().waiting == 0)


async def test_a_client_that_leaves_with_half_a_body_leaves_nothing(server: Served) -> None:
    """No row was queued; the reading of the body ends."""
    async with server.connection() as connection:
        await connection.send(request(stream=True)[:-10])
        while not server.server.server_state.tasks:
            await asyncio.sleep(0)
    await server.idle()
    assert server.engine.submitted == []
