"""Everything that adapter management refuses, as one tree.

``server.errors`` gives each class its HTTP status, type and code; a test walks this tree and fails
for a class without one.
"""

from __future__ import annotations


class AdapterError(Exception):
    """A base, an adapter or a stage is wrong; ``str()`` says what, where and how to mend it."""


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
