"""What the HTTP side asks of the rest. ``server.app`` plugs the real parts in."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

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


class Dialect(Protocol):
    """How the base's chat template and its answers write tools and reasoning.

    ``variables`` are the names that the template reads. ``call_kind`` is a kind of
    ``server.core.call_style``, None where the template knows no tools. Markers are empty where
    there are none; ``special`` are those that are special tokens, with their ids.
    """

    @property
    def variables(self) -> frozenset[str]: ...  # noqa: D102 - as above

    @property
    def call_kind(self) -> Literal["object", "list", "header", "bare", "text"] | None: ...  # noqa: D102

    @property
    def call_start(self) -> str: ...  # noqa: D102

    @property
    def call_end(self) -> str: ...  # noqa: D102

    @property
    def think_start(self) -> str: ...  # noqa: D102

    @property
    def think_end(self) -> str: ...  # noqa: D102

    @property
    def special(self) -> Mapping[str, int]: ...  # noqa: D102

    def parse_calls(
        self, text: str, tools: Sequence[Mapping[str, Any]]
    ) -> Sequence[tuple[str, str]]:
        """Names and arguments, as JSON objects, of the calls of ``text``; ValueError for none."""
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

    def spell(self, text: str) -> list[int]:
        """Token ids of plain text and of nothing beside it."""
        ...

    @property
    def dialect(self) -> Dialect:
        """How tools and reasoning are written."""
        ...

    def encode_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        template_kwargs: Mapping[str, Any],
        ending: Literal["open", "continue", "closed"] = "open",
    ) -> list[int]:
        """Token ids of a conversation: ready for the assistant's turn, going on with its last one
        (``continue``), or ending with the last message (``closed``).

        Raises InvalidRequest where the model's chat template refuses the conversation.
        """
        ...

    def detokenizer(self) -> Detokenizer:
        """A fresh one for one sequence."""
        ...

    def token_bytes(self, token: int) -> bytes:
        """The bytes that ``token`` stands for."""
        ...
