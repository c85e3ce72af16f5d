"""The text of one row, piece by piece, with the token reports that belong to each piece."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from server.core.messages import Token, TokenLogprobs
from server.core.ports import Detokenizer
from server.core.reader import Reader
from server.core.spoken import Spoken
from server.core.text import StopMatcher


@dataclass(frozen=True, slots=True)
class Report:
    """A token's probabilities. ``offset`` is where its text begins in the row's text.

    ``logprobs`` is None for the first token of an echoed prompt: nothing comes before it.
    """

    token: int
    offset: int
    logprobs: TokenLogprobs | None


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that is certain, possibly none yet, and the reports of the tokens that begin in it.

    ``index`` is the row's place in its request. ``spoken`` is what the text says, where the row's
    text is read for that; it may lag behind the text.
    """

    text: str = ""
    reports: tuple[Report, ...] = ()
    index: int = 0
    spoken: tuple[Spoken, ...] = ()


class Transcript:
    """Tokens to text, up to a stop string.

    A report leaves with the piece in which its token's text begins; the reports of tokens that
    begin at or after a stop string are dropped with that text. ``index`` is the row's place in its
    request, ``start`` the length of the text before its first token. A ``reader`` is given the
    text, and ends it with the last call that is wanted.
    """

    def __init__(
        self,
        detokenizer: Detokenizer,
        stops: Sequence[str],
        *,
        index: int = 0,
        start: int = 0,
        reader: Reader | None = None,
    ) -> None:
        self._detokenizer = detokenizer
        self._matcher = StopMatcher(stops)
        self._index = index
        self._decoded = start
        self._shown = start
        self._pending: deque[Report] = deque()
        self._reader = reader
        self._offsets: list[int] = []
        self.tokens = 0
        """How many tokens were added, the one that completed a stop string among them."""

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found, or the last call that is wanted."""
        return self._matcher.hit or (self._reader is not None and self._reader.done)

    @property
    def calls(self) -> int:
        """How many calls of tools have begun."""
        return 0 if self._reader is None else self._reader.calls

    @property
    def reasoning_tokens(self) -> int | None:
        """How many of the tokens begin in reasoning; None where the text is not read for it."""
        if self._reader is None or not self._reader.thinks:
            return None
        return sum(self._reader.is_thought(offset) for offset in self._offsets)

    @property
    def stop(self) -> str | None:
        """The stop string that was found."""
        return self._matcher.found

    def add(self, token: Token) -> Piece:
        """What ``token`` makes certain."""
        self.tokens += 1
        if self._reader is not None:
            self._offsets.append(self._decoded)
        if token.logprobs is not None:
            self._pending.append(Report(token.token, self._decoded, token.logprobs))
        return self._piece(self._push(self._detokenizer.add(token.token)))

    def end(self, token: Token | None) -> Report | None:
        """The report of the end token behind the whole text, if there is one."""
        if token is None or token.logprobs is None or self.stopped:
            return None
        return Report(token.token, self._decoded, token.logprobs)

    def finish(self) -> Piece:
        """What is left when no token follows."""
        text = self._push(self._detokenizer.finish()) + self._matcher.finish()
        piece = self._piece(text, final=True)
        if self.stopped:
            return piece
        rest = tuple(self._pending)
        self._pending.clear()
        return replace(piece, reports=piece.reports + rest)

    def _push(self, text: str) -> str:
        self._decoded += len(text)
        return self._matcher.push(text)

    def _piece(self, text: str, *, final: bool = False) -> Piece:
        self._shown += len(text)
        reports = []
        while self._pending and self._pending[0].offset < self._shown:
            reports.append(self._pending.popleft())
        return Piece(text, tuple(reports), self._index, self._read(text, final=final))

    def _read(self, text: str, *, final: bool) -> tuple[Spoken, ...]:
        if self._reader is None:
            return ()
        spoken = self._reader.push(text)
        return spoken + self._reader.finish() if final or self._matcher.hit else spoken
