"""Where responses are while they run, and after they have ended."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from server.api.encoded import Encode
from server.api.generation import Ask, admitted
from server.api.parts import Parts
from server.api.responses.answer import ResponseTelling
from server.api.responses.ask import constraint_of, response_ask
from server.api.responses.items import listed
from server.api.responses.prompt import prompt_of
from server.api.responses.stored import Kept, ResponseStore
from server.api.schema.responses import PromptRequest, ResponsesRequest
from server.api.telling import tell
from server.api.wire import Body, encode
from server.core.errors import InvalidRequest, ResponseNotFound
from server.errors import to_body

log = logging.getLogger(__name__)


class ResponseDesk:
    """Every response that can be asked for by its id. Used on the event loop alone."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = ResponseStore(parts.limits.stored_response_bytes)
        self._running: dict[str, tuple[ResponseTelling, list[Body]]] = {}
        self._background: set[asyncio.Task[None]] = set()

    def take(self, request: ResponsesRequest) -> tuple[Ask, ResponseTelling]:
        """What ``request`` asks of the engine, and the response that will tell of it.

        Raises PreviousResponseNotFound, and InvalidRequest where the previous one still runs.
        """
        history = self._history(request.previous_response_id)
        items = listed(request.input, self._parts.new_id)
        ask = response_ask(request, items, history, self._parts)
        telling = ResponseTelling(request, ask, self._parts, self._closed)
        if request.store is not False:
            self._running[telling.id] = telling, items
        return ask, telling

    def prompt(self, request: PromptRequest) -> Encode:
        """What makes the prompt that a response to ``request`` would have; raises as ``take``."""
        history = self._history(request.previous_response_id)
        items = listed(request.input, self._parts.new_id)
        return prompt_of(request, items, history, answer=constraint_of(request), room=1)

    async def run_in_background(self, ask: Ask, telling: ResponseTelling) -> None:
        """Return once the row is queued; it runs on, whoever listens. Raises as ``admitted``."""
        queued: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(self._run(ask, telling, queued))
        self._background.add(task)
        task.add_done_callback(self._background.discard)
        await queued

    def body(self, response_id: str) -> bytes:
        """The response as JSON, as it is now."""
        if response_id in self._running:
            return encode(self._running[response_id][0].body())
        return self._kept(response_id).body

    def items(self, response_id: str) -> list[Body] | bytes:
        """The input items of the response, oldest first; of one that has ended as JSON."""
        if response_id in self._running:
            return self._running[response_id][1]
        return self._kept(response_id).items

    def cancel(self, response_id: str) -> bytes:
        """End a response that runs, and give it as it is then. One that is cancelled stays so."""
        if response_id in self._running:
            telling, _ = self._running[response_id]
            telling.cancel()
            self._parts.engine.cancel(response_id)
            return encode(telling.body())
        kept = self._kept(response_id)
        if kept.status != "cancelled":
            raise InvalidRequest(
                f"The response {response_id[:100]!a} has ended already; only a running one can be "
                "cancelled.",
                param="response_id",
            )
        return kept.body

    def delete(self, response_id: str) -> None:
        """Forget the response; one that runs ends as well. Raises ResponseNotFound."""
        if response_id in self._running:
            telling, _ = self._running.pop(response_id)
            telling.cancel()
            self._parts.engine.cancel(response_id)
        elif not self._store.delete(response_id):
            raise _unknown(response_id)

    async def _run(self, ask: Ask, telling: ResponseTelling, queued: asyncio.Future[None]) -> None:
        try:
            async with admitted(self._parts, ask) as reply:
                queued.set_result(None)
                await tell(telling, reply)
        except Exception as error:
            if not queued.done():
                queued.set_exception(error)
                return
            body = to_body(error, request_id=telling.id)
            if body.status == 500:
                log.error("%s: a background response failed", telling.id, exc_info=error)
            telling.failed(body, telling.id)
        finally:
            telling.close()

    def _closed(self, telling: ResponseTelling) -> None:
        running = self._running.pop(telling.id, None)
        if running is not None and telling.begun:
            self._store.keep(telling.body(), running[1])

    def _history(self, previous: str | None) -> Sequence[Kept]:
        if previous in self._running:
            raise InvalidRequest(
                f"Previous response {str(previous)[:100]!a} still runs; wait for its end.",
                param="previous_response_id",
            )
        return self._store.history(previous)

    def _kept(self, response_id: str) -> Kept:
        kept = self._store.get(response_id)
        if kept is None:
            raise _unknown(response_id)
        return kept


def _unknown(response_id: str) -> ResponseNotFound:
    return ResponseNotFound(
        f"No response {response_id[:100]!a} is kept: it was never stored, was deleted, or made "
        "room for newer ones (stored_response_bytes).",
        param="response_id",
    )
