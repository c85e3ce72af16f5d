"""What the HTTP side asks of the rest. ``server.app`` plugs the real parts in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from server.core.messages import Constraint, EngineStats, Event, Generate


class Events(Protocol):
    """A row's events, in order, for one reader."""

    def __aiter__(self) -> AsyncIterator[Event]:
        """Itself."""
        ...

    async def __anext__(self) -> Event:
        """The next event; StopAsyncIteration after the last one."""
        ...

    async def aclose(self) -> None:
        """Read no further; a row that still runs is cancelled. Waits for nothing."""
        ...


class Engine(Protocol):
    """Rows in, events out. One conformance suite runs on every implementation."""

    async def start(self) -> None:
        """Return when requests can be submitted; raise EngineFailed where the device cannot."""
        ...

    def check(self, constraint: Constraint) -> None:
        """Compile ``constraint`` and keep it for the rows to come; may take a while, on any thread.

        Raises InvalidRequest with the constraint's field and the reason, or the limit, that
        refuses it.
        """
        ...

    def submit(self, request: Generate) -> Events:
        """Queue a row now and return its events; the last one is Finished or Failed.

        Must be called on the event loop that ``start`` ran on. Raises QueueFull, ShuttingDown,
        EngineFailed or InvalidRequest (a row that can never fit) at once, before any event. An
        iterator that is closed early cancels its row. A constraint should have been through
        ``check``; else this call does it.
        """
        ...

    def cancel(self, request_id: str) -> None:
        """Ask for the end of a row: its last event becomes Finished(CANCELLED). Idempotent."""
        ...

    def stats(self) -> EngineStats:
        """A snapshot, from any thread, without waiting for the device."""
        ...

    async def stop(self, *, grace_s: float) -> None:
        """Refuse new rows, let running ones finish for ``grace_s``, cancel the rest, then end."""
        ...


@dataclass(frozen=True, slots=True)
class Model:
    """A row of ``/v1/models``: a name that works as ``model``. ``created`` is Unix seconds."""

    id: str
    created: int
    parent: str | None = None
    root: str | None = None


@dataclass(frozen=True, slots=True)
class Target:
    """What a name resolved to at admission. ``revision`` is None for the bare base."""

    name: str
    flow: str
    revision: str | None


class Catalog(Protocol):
    """Names to revisions."""

    def models(self, *, pins: bool = False) -> Sequence[Model]:
        """Base, heads and labels, base first; with ``pins`` also every stage's ``@n``."""
        ...

    def model(self, name: str) -> Model:
        """The row of a name that can be used, listed or not; raises UnknownModel, TwoAdapters."""
        ...

    def pin(self, name: str) -> AbstractContextManager[Target]:
        """Resolve ``name`` and keep its revision from deletion while the context is open.

        Raises UnknownModel or TwoAdapters on entry, before anything is sent to a client.
        """
        ...


class Detokenizer(Protocol):
    """Text of one growing token sequence, never splitting a character."""

    def add(self, token: int) -> str:
        """The text that ``token`` completes, possibly empty."""
        ...

    def finish(self) -> str:
        """What is left when no token follows."""
        ...


class Tokenizer(Protocol):
    """The base's tokenizer and chat template. Every method may be called from any thread."""

    @property
    def vocab_size(self) -> int:
        """Number of rows of the model's output."""
        ...

    @property
    def end_tokens(self) -> frozenset[int]:
        """Ids that end a generation."""
        ...

    @property
    def max_context(self) -> int:
        """Prompt plus completion, in tokens."""
        ...

    def encode(self, text: str) -> list[int]:
        """Token ids of plain text, with the beginning-of-text token where the model has one."""
        ...

    def encode_chat(
        self, messages: Sequence[Mapping[str, Any]], *, template_kwargs: Mapping[str, Any]
    ) -> list[int]:
        """Token ids of a conversation, ready for the assistant's turn.

        Raises InvalidRequest where the model's chat template refuses the conversation.
        """
        ...

    def detokenizer(self) -> Detokenizer:
        """A fresh one for one sequence."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that ``token`` stands for."""
        ...
