"""Model names: ``base``, ``base:chain``, ``base:chain@stage`` and ``base:chain@label``.

The served base name is matched first and exactly, because it may itself contain ``/`` and ``:``.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from server.core.errors import TwoAdapters, UnknownModel

_CHAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_LABEL = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")
_STAGE = re.compile(r"[1-9][0-9]{0,8}")

ONE_ADAPTER = (
    "one adapter per request: a chain's revision already holds everything the chain has learned, "
    "and applying two would add their parameters twice. Name a single chain, or train a further "
    "stage that combines them."
)


@dataclass(frozen=True, slots=True)
class ModelName:
    """A parsed model name. ``chain`` is None for the bare base.

    At most one of ``stage`` (``@3``) and ``label`` (``@stable``) is set; neither means the head.
    """

    base: str
    chain: str | None = None
    stage: int | None = None
    label: str | None = None

    def __str__(self) -> str:
        pin = self.stage if self.stage is not None else self.label
        tail = "" if pin is None else f"@{pin}"
        return self.base if self.chain is None else f"{self.base}:{self.chain}{tail}"


def is_chain_name(text: str) -> bool:
    """Whether ``text`` may name a chain."""
    return _CHAIN.fullmatch(text) is not None


def is_label(text: str) -> bool:
    """Whether ``text`` may name a revision of a chain, as in ``base:chain@label``."""
    return _LABEL.fullmatch(text) is not None


def parse(model: str, *, served_name: str) -> ModelName:
    """Parse a request's ``model`` against the served base name.

    Raises TwoAdapters where two adapters are named, UnknownModel for every other name that this
    server cannot have.
    """
    if model == served_name:
        return ModelName(served_name)
    prefix = f"{served_name}:"
    if not model.startswith(prefix):
        raise _unknown(model, served_name, "another base")
    rest = model[len(prefix) :]
    chain, at, pin = rest.partition("@")
    parts = re.split(r"[,:+]", rest)
    if len(parts) > 1 and all(is_chain_name(part.partition("@")[0]) for part in parts):
        raise TwoAdapters(
            f"The model {model!r} names {len(parts)} adapters; {ONE_ADAPTER}", param="model"
        )
    if not is_chain_name(chain):
        raise _unknown(model, served_name, "not a chain name")
    if not at:
        return ModelName(served_name, chain)
    if _STAGE.fullmatch(pin):
        return ModelName(served_name, chain, stage=int(pin))
    if _LABEL.fullmatch(pin):
        return ModelName(served_name, chain, label=pin)
    raise _unknown(model, served_name, "neither a stage number nor a label stands after '@'")


def _unknown(model: str, served_name: str, why: str) -> UnknownModel:
    return UnknownModel(
        f"The model {model!r} does not exist ({why}). This server serves {served_name!r} and "
        f"'{served_name}:<chain>'; GET /v1/models lists every name.",
        param="model",
    )
