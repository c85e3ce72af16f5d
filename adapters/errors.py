"""Everything that adapter management refuses, as one tree.

``server.errors`` gives each class its HTTP status, type and code; a test walks this tree and fails
for a class without one.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LineFault:
    """What is wrong with one line of a data set, the first being line 1."""

    line: int
    reason: str


class AdapterError(Exception):
    """A base, an adapter or a stage is wrong; ``str()`` says what, where and how to mend it.

    ``param`` names the request field at fault, or is None where no single field is.
    """

    def __init__(self, message: str = "", *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param

    @property
    def code(self) -> str:
        """A stable name for programs: the class's own, as ``parent_moved``."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()


class BaseError(AdapterError):
    """The base model cannot be loaded or used."""


class EmbeddedModelError(BaseError):
    """The embedded model could not be fetched, verified or converted."""


class ChatTemplateError(AdapterError):
    """The base has no chat template, or its template refuses this conversation."""


class AdapterFileError(AdapterError):
    """An adapter's files are missing, malformed, too large or not of a known format."""


class AdapterMismatch(AdapterError):
    """The adapter does not fit this base: no module matches, or a shape contradicts it."""


class AdapterTooLarge(AdapterError):
    """The adapter alone exceeds ``adapter_budget_bytes``."""


class StoreError(AdapterError):
    """The data directory cannot be used: in use by another process, of a newer version, broken."""


class StorageFull(StoreError):
    """The disk, or the limit set for it, is full."""


class StageError(AdapterError):
    """A stage or a chain operation is refused, or a stage fails."""


class DataError(StageError):
    """The training data are not usable; the message names every bad line and the reason.

    ``faults`` has them line by line, in order; it is empty where no single line is at fault.
    """

    def __init__(
        self, message: str = "", *, faults: tuple[LineFault, ...] = (), param: str | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.faults = faults


class ShapeContradiction(StageError):
    """The LoRA shape contradicts the chain's; a chain's shape is inherited and may only grow."""


class ParentMoved(StageError):
    """The chain's head is no longer the revision that the stage was to start from."""


class RevisionProtected(StageError):
    """The revision is a head, has a label, is in use, or is an unfinished stage's parent."""


class WrongState(StageError):
    """The stage's state does not allow the operation."""


class MemoryExceeded(StageError):
    """The stage cannot fit the memory that is free; the message carries the estimate."""


class ChainExists(StageError):
    """There is a chain of that name already."""


class AlreadyLoaded(ChainExists):
    """An adapter is to be loaded under the name of a chain that is there."""


class AdapterPathNotFound(AdapterFileError):
    """No adapter in the directories that may be loaded from has that path."""


class ChainNotFound(StageError):
    """There is no chain of that name."""


class StageNotFound(StageError):
    """There is no stage of that id or number."""


class RevisionNotFound(StageError):
    """There is no such revision; where there once was one, the message says what became of it."""


class DatasetNotFound(StageError):
    """There is no data set of that id."""


class DatasetProtected(StageError):
    """An unfinished stage needs the data set."""


class FileNotFound(StageError):
    """There is no file of that id, or it has expired."""


class FileProtected(StageError):
    """The file is a part of a stage's record, which stays."""


class IdempotencyConflict(StageError):
    """The Idempotency-Key was used before with another request."""


class NonFinite(StageError):
    """Loss, gradient or a parameter is not finite: training diverged."""


class VerificationFailed(StageError):
    """What was written is not what was trained; nothing was published."""


class ClaimLost(StageError):
    """The stage was claimed anew: this worker's fencing token is out of date."""


class DeviceGone(StageError):
    """The device failed or stops; the stage is given back and continues after a restart."""
