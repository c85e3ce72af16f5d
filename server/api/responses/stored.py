"""Responses that are kept for later, in memory and within bounds."""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from server.api.wire import Body, encode
from server.core.errors import PreviousResponseNotFound

MOST = 4096
"""How many are kept at most, however small they are."""


@dataclass(frozen=True, slots=True)
class Kept:
    """One response as JSON, its own input items as a JSON list, and what it goes on from."""

    body: bytes
    items: bytes
    status: str
    previous: str | None

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.body) + len(self.items)


class ResponseStore:
    """The responses last used, at most ``MOST`` and together at most ``max_bytes``.

    The one that was not used for the longest time makes room. To go on from a response uses it
    and all that it goes on from. One that is larger than ``max_bytes`` is not kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._bytes = 0

    def keep(self, body: Body, items: Sequence[Body]) -> None:
        """Keep a response that has ended."""
        previous = body["previous_response_id"]
        kept = Kept(encode(body), _encoded(items), body["status"], previous)
        self.delete(body["id"])
        if kept.size > self._max_bytes:
            return
        self._kept[body["id"]] = kept
        self._bytes += kept.size
        while self._bytes > self._max_bytes or len(self._kept) > MOST:
            self.delete(next(iter(self._kept)))

    def get(self, response_id: str) -> Kept | None:
        """The response, now the one last used; None where it is not kept."""
        kept = self._kept.get(response_id)
        if kept is not None:
            self._kept.move_to_end(response_id)
        return kept

    def delete(self, response_id: str) -> bool:
        """Forget the response; whether it was there."""
        kept = self._kept.pop(response_id, None)
        if kept is None:
            return False
        self._bytes -= kept.size
        return True

    def history(self, response_id: str | None) -> list[Kept]:
        """The response and all that it goes on from, oldest first.

        Raises PreviousResponseNotFound where one of them is not kept.
        """
        chain: list[Kept] = []
        wanted = response_id
        while wanted is not None:
            kept = self.get(wanted)
            if kept is None:
                raise _missing(response_id, wanted)
            chain.append(kept)
            wanted = kept.previous
        return chain[::-1]


def items_of(kept: Kept) -> list[Any]:
    """A response's input items and its output, in order."""
    return [*json.loads(kept.items), *json.loads(kept.body)["output"]]


def _encoded(items: Sequence[Body]) -> bytes:
    return json.dumps(list(items), ensure_ascii=False, separators=(",", ":")).encode()


def _missing(response_id: str | None, missing: str) -> PreviousResponseNotFound:
    which = "" if missing == response_id else f" goes on from {missing[:100]!a}, which"
    return PreviousResponseNotFound(
        f"Previous response {str(response_id)[:100]!a}{which} is not kept: it was deleted, was "
        "sent with store: false, or made room for newer ones (stored_response_bytes). Send the "
        "conversation as input instead.",
        param="previous_response_id",
    )
