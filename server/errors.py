"""What each error looks like on the wire: status, type, code and, where it helps, when to retry.

The keys are the qualified names of the classes in ``server.core.errors`` and ``adapters.errors``:
names, because the HTTP side must not import adapter management. A test walks both trees and fails
for a class without a row and for a row without a class.
"""

from __future__ import annotations

import errno
from dataclasses import dataclass, field, replace
from typing import Final, NotRequired, TypedDict

_CLIENT = "invalid_request_error"
_SERVER = "server_error"
_RATE = "rate_limit_error"


class LineFields(TypedDict):
    """What is wrong with one line of training data; ``line`` counts from 1."""

    line: int
    reason: str


class ErrorFields(TypedDict):
    """OpenAI's error object. ``lines`` is there where an error has faults by line, and ours."""

    message: str
    type: str
    param: str | None
    code: str
    lines: NotRequired[list[LineFields]]


class ErrorContent(TypedDict):
    """The whole body of an error response."""

    error: ErrorFields


@dataclass(frozen=True, slots=True)
class Wire:
    """One row of the table.

    ``retry_after_s`` becomes the Retry-After header, where the error has none of its own. ``retry``
    False sends ``x-should-retry: false``, which the OpenAI SDK obeys where it would repeat a status
    by itself.
    """

    status: int
    type: str
    code: str
    retry_after_s: int | None = None
    retry: bool = True


_CORE = "server.core.errors."
_ADAPTERS = "adapters.errors."

TABLE: Final[dict[str, Wire]] = {
    _CORE + "ServeError": Wire(500, _SERVER, "internal_error"),
    _CORE + "InvalidRequest": Wire(400, _CLIENT, "invalid_request"),
    _CORE + "UnsupportedField": Wire(400, _CLIENT, "unsupported_parameter"),
    _CORE + "TwoAdapters": Wire(400, _CLIENT, "two_adapters"),
    _CORE + "PromptTooLong": Wire(400, _CLIENT, "context_length_exceeded"),
    _CORE + "NoHiddenState": Wire(400, _CLIENT, "embeddings_unsupported"),
    _CORE + "UnknownModel": Wire(404, _CLIENT, "model_not_found"),
    _CORE + "ResponseNotFound": Wire(404, _CLIENT, "response_not_found"),
    _CORE + "PreviousResponseNotFound": Wire(400, _CLIENT, "previous_response_not_found"),
    _CORE + "RequestTooLarge": Wire(413, _CLIENT, "request_too_large"),
    _CORE + "ForbiddenHost": Wire(421, _CLIENT, "forbidden_host"),
    _CORE + "UnsupportedMediaType": Wire(415, _CLIENT, "unsupported_media_type"),
    _CORE + "RouteNotFound": Wire(404, _CLIENT, "route_not_found"),
    _CORE + "MethodNotAllowed": Wire(405, _CLIENT, "method_not_allowed"),
    _CORE + "QueueFull": Wire(429, _RATE, "queue_full"),
    _CORE + "DeadlineExceeded": Wire(408, _CLIENT, "deadline_exceeded", retry=False),
    _CORE + "SlowReader": Wire(408, _CLIENT, "slow_reader", retry=False),
    _CORE + "AdapterUnavailable": Wire(503, _SERVER, "adapter_unavailable", retry=False),
    _CORE + "NonFiniteOutput": Wire(500, _SERVER, "non_finite_output", retry=False),
    _CORE + "EngineFailed": Wire(503, _SERVER, "engine_failed", retry_after_s=5),
    _CORE + "ShuttingDown": Wire(503, _SERVER, "shutting_down", retry_after_s=5),
    _ADAPTERS + "AdapterError": Wire(500, _SERVER, "adapter_error"),
    _ADAPTERS + "BaseError": Wire(500, _SERVER, "base_unusable"),
    _ADAPTERS + "EmbeddedModelError": Wire(500, _SERVER, "embedded_model_unusable"),
    _ADAPTERS + "ChatTemplateError": Wire(400, _CLIENT, "chat_template_error"),
    _ADAPTERS + "AdapterFileError": Wire(400, _CLIENT, "adapter_file_error"),
    _ADAPTERS + "AdapterMismatch": Wire(400, _CLIENT, "adapter_mismatch"),
    _ADAPTERS + "AdapterTooLarge": Wire(400, _CLIENT, "adapter_too_large"),
    _ADAPTERS + "StoreError": Wire(500, _SERVER, "store_error"),
    _ADAPTERS + "StorageFull": Wire(507, _SERVER, "storage_full", retry=False),
    _ADAPTERS + "StageError": Wire(500, _SERVER, "stage_error"),
    _ADAPTERS + "DataError": Wire(400, _CLIENT, "data_error"),
    _ADAPTERS + "ShapeContradiction": Wire(409, _CLIENT, "shape_contradiction", retry=False),
    _ADAPTERS + "ParentMoved": Wire(409, _CLIENT, "parent_moved", retry=False),
    _ADAPTERS + "RevisionProtected": Wire(409, _CLIENT, "revision_protected", retry=False),
    _ADAPTERS + "WrongState": Wire(409, _CLIENT, "wrong_state", retry=False),
    _ADAPTERS + "MemoryExceeded": Wire(413, _CLIENT, "memory_exceeded"),
    _ADAPTERS + "ChainExists": Wire(409, _CLIENT, "chain_exists", retry=False),
    _ADAPTERS + "AlreadyLoaded": Wire(400, _CLIENT, "adapter_already_loaded"),
    _ADAPTERS + "AdapterPathNotFound": Wire(404, _CLIENT, "adapter_path_not_found"),
    _ADAPTERS + "ChainNotFound": Wire(404, _CLIENT, "chain_not_found"),
    _ADAPTERS + "StageNotFound": Wire(404, _CLIENT, "stage_not_found"),
    _ADAPTERS + "RevisionNotFound": Wire(404, _CLIENT, "revision_not_found"),
    _ADAPTERS + "DatasetNotFound": Wire(404, _CLIENT, "dataset_not_found"),
    _ADAPTERS + "DatasetProtected": Wire(409, _CLIENT, "dataset_protected", retry=False),
    _ADAPTERS + "FileNotFound": Wire(404, _CLIENT, "file_not_found"),
    _ADAPTERS + "FileProtected": Wire(409, _CLIENT, "file_protected", retry=False),
    _ADAPTERS + "IdempotencyConflict": Wire(409, _CLIENT, "idempotency_conflict", retry=False),
    _ADAPTERS + "NonFinite": Wire(500, _SERVER, "non_finite"),
    _ADAPTERS + "VerificationFailed": Wire(500, _SERVER, "verification_failed"),
    _ADAPTERS + "ClaimLost": Wire(500, _SERVER, "claim_lost"),
    _ADAPTERS + "DeviceGone": Wire(503, _SERVER, "device_gone", retry_after_s=5),
}

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_NO_ROOM = (
    "The disk of the data directory is full; delete data sets or revisions, or make room on it, "
    "and send the request again."
)
_UNEXPECTED = Wire(500, _SERVER, "internal_error")


@dataclass(frozen=True, slots=True)
class ErrorBody:
    """An error as it is sent. ``headers`` are lower-case names with their values."""

    status: int
    content: ErrorContent
    headers: dict[str, str] = field(default_factory=dict)


def qualified_name(error_class: type[BaseException]) -> str:
    """The key of a class in ``TABLE``."""
    return f"{error_class.__module__}.{error_class.__qualname__}"


def to_body(error: BaseException, *, request_id: str = "") -> ErrorBody:
    """The wire form of ``error``.

    A write that the system refused for lack of room is StorageFull, wherever it happened. Any other
    error outside both trees is a defect of ours: its text may hold anything, so the client gets a
    fixed sentence with ``request_id``, under which the log has the rest.
    """
    if isinstance(error, OSError) and error.errno in _FULL:
        return _body(TABLE[_ADAPTERS + "StorageFull"], _NO_ROOM, None)
    for ancestor in type(error).__mro__:
        wire = TABLE.get(qualified_name(ancestor))
        if wire is not None:
            after = getattr(error, "retry_after_s", None)
            wire = wire if after is None else replace(wire, retry_after_s=after)
            body = _body(wire, str(error), getattr(error, "param", None))
            faults = getattr(error, "faults", ())
            if faults:
                body.content["error"]["lines"] = [
                    LineFields(line=fault.line, reason=fault.reason) for fault in faults
                ]
            return body
    message = (
        "The server failed on this request, which is a defect of the server. Its log has the "
        f"details under request id {request_id or 'unknown'}; please report them."
    )
    return _body(_UNEXPECTED, message, None)


def _body(wire: Wire, message: str, param: str | None) -> ErrorBody:
    headers = {}
    if wire.retry_after_s is not None:
        headers["retry-after"] = str(wire.retry_after_s)
    if not wire.retry:
        headers["x-should-retry"] = "false"
    fields = ErrorFields(message=message, type=wire.type, param=param, code=wire.code)
    return ErrorBody(wire.status, ErrorContent(error=fields), headers)
