"""What the device thread is told, in the order in which it comes."""

from __future__ import annotations

from dataclasses import dataclass

from server.core.messages import Generate
from server.engine.grammars import Matcher
from server.engine.lending import Piece
from server.engine.loader import Loaded, LoadFailed


@dataclass(frozen=True, slots=True)
class Begin:
    """A row, and the beginning of its constraint where it has one."""

    request: Generate
    matcher: Matcher | None


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a row early."""

    request_id: str


@dataclass(frozen=True, slots=True)
class Forget:
    """A revision is gone for good; no later row will name it."""

    revision: str


@dataclass(frozen=True, slots=True)
class Stop:
    """End the thread."""


Message = Begin | Cancel | Forget | Stop | Loaded | LoadFailed | Piece
