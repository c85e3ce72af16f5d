"""How much may be asked of the engine at a time: a bound on rows and on the memory they need."""

from __future__ import annotations

import math

from server.core.errors import QueueFull

_LONGEST_S = 600
"""What a client is told to wait, at most."""


class Backlog:
    """The rows that were submitted and have not ended, and the tokens that they need room for.

    Of ``rows`` that run and ``queue_limit`` that wait no more are taken, nor of rows that need more
    than ``queue_kv_factor`` times the KV cache of ``kv_tokens`` beyond the one in use. A row
    beside which there is no other is always taken.
    """

    def __init__(
        self, *, rows: int, queue_limit: int, kv_tokens: int, queue_kv_factor: int
    ) -> None:
        self._most_rows = rows + queue_limit
        self._queue_limit = queue_limit
        self._kv_tokens = kv_tokens
        self._factor = queue_kv_factor
        self._tokens: dict[str, int] = {}
        self._total = 0

    def add(self, request_id: str, tokens: int, *, row_s: float) -> None:
        """Take a row that needs room for ``tokens``; raises QueueFull.

        ``row_s`` is how many seconds apart rows end, 0 where that is not known: then a refusal
        does not say when to come back.
        """
        if len(self._tokens) >= self._most_rows:
            raise QueueFull(
                f"{self._queue_limit} requests wait already. Try again in a moment, or raise "
                "queue_limit.",
                retry_after_s=_seconds(row_s),
            )
        most = (1 + self._factor) * self._kv_tokens
        excess = self._total + tokens - most
        if self._tokens and excess > 0:
            ends = math.ceil(excess * len(self._tokens) / self._total)
            raise QueueFull(
                f"This request needs room for {tokens} tokens, and those before it for "
                f"{self._total}; the KV cache holds {self._kv_tokens}, and requests for "
                f"{self._factor} times as many may wait. Try again later, shorten the prompt or "
                "max_tokens, or raise kv_budget_bytes or queue_kv_factor.",
                retry_after_s=_seconds(ends * row_s),
            )
        self._tokens[request_id] = tokens
        self._total += tokens

    def remove(self, request_id: str) -> None:
        """A row has ended; unknown ones are no error."""
        self._total -= self._tokens.pop(request_id, 0)


def _seconds(seconds: float) -> int | None:
    return min(max(math.ceil(seconds), 1), _LONGEST_S) if seconds else None
