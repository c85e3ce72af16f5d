"""Everything that serving refuses or loses, as one tree.

``server.errors`` gives each class its HTTP status, type and code; a test walks this tree and fails
for a class without one.
"""

from __future__ import annotations


class ServeError(Exception):
    """A request that cannot be served; ``str()`` says what, where and how to mend it.

    ``param`` names the request field at fault, or is None where no single field is.
    """

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class InvalidRequest(ServeError):
    """The request contradicts itself, the reference or a limit."""


class UnsupportedField(InvalidRequest):
    """A field that the API reference defines and this server does not support."""


class TwoAdapters(InvalidRequest):
    """More than one adapter is named; their parameters would be applied twice."""


class PromptTooLong(InvalidRequest):
    """Prompt and completion do not fit the context; the message carries both numbers."""


class NoHiddenState(InvalidRequest):
    """What this model gives to its output layer cannot be reached, so that it embeds nothing."""


class UnknownModel(ServeError):
    """No base and no chain has that name."""


class ResponseNotFound(ServeError):
    """No response with that id is kept: it never was, was deleted, or made room for newer ones."""


class PreviousResponseNotFound(InvalidRequest):
    """The response to go on from, or one that it goes on from itself, is not kept any more."""


class RequestTooLarge(ServeError):
    """The body is larger than ``max_body_bytes``."""


class ForbiddenHost(ServeError):
    """The Host header names a machine that this server does not answer for."""


class UnsupportedMediaType(ServeError):
    """A POST whose body is neither JSON nor multipart."""


class RouteNotFound(ServeError):
    """No such path."""


class MethodNotAllowed(ServeError):
    """The path exists, the method does not."""


class QueueFull(ServeError):
    """The engine's queue is full.

    ``retry_after_s`` is when there should be room by what was measured, None where nothing was.
    """

    def __init__(
        self, message: str, *, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message, param=param)
        self.retry_after_s = retry_after_s


class DeadlineExceeded(ServeError):
    """The request ran past ``request_timeout_s``, or its body was too slow to arrive."""


class SlowReader(ServeError):
    """The client read so slowly that its event queue overflowed."""


class AdapterUnavailable(ServeError):
    """The adapter is known but could not be made resident; the message says why."""


class NonFiniteOutput(ServeError):
    """The model's logits are not finite: an adapter diverged, or the base's files are broken."""


class EngineFailed(ServeError):
    """The device failed: the engine is poisoned and this process is about to be replaced."""


class ShuttingDown(ServeError):
    """The server is draining and takes no new request."""
