"""What the routes of files read from a request."""

from __future__ import annotations

import re
from collections.abc import Mapping

from adapters.errors import FileNotFound
from server.core.errors import InvalidRequest, UnsupportedField

FINE_TUNE = "fine-tune"
PURPOSES = frozenset(
    {"assistants", "assistants_output", "batch", "batch_output", "evals", FINE_TUNE,
     "fine-tune-results", "user_data", "vision"}
)  # fmt: skip
"""That the reference knows."""
LEAST_EXPIRY_S, MOST_EXPIRY_S = 3600, 2_592_000
"""One hour to 30 days, as in the reference."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,159}")
_SECONDS = re.compile(r"[0-9]{1,10}")


def file_id(text: str, *, param: str = "file_id") -> str:
    """An id that a file may have; raises FileNotFound for any other text."""
    if _ID.fullmatch(text) is None:
        raise FileNotFound(f"There is no file {text[:64]!a}.", param=param)
    return text


def upload_purpose(text: str | None) -> str:
    """What a new file is for: ``fine-tune`` is all that there is."""
    if text == FINE_TUNE:
        return text
    if text is None:
        raise InvalidRequest("The form has no part 'purpose'; it is 'fine-tune'.", param="purpose")
    if text in PURPOSES:
        raise UnsupportedField(
            f"purpose: this server keeps files for 'fine-tune' only, not for {text!a}.",
            param="purpose",
        )
    raise InvalidRequest("purpose: must be 'fine-tune'.", param="purpose")


def listed_purpose(text: str | None) -> str | None:
    """Which files a list is to have; None for all."""
    if text is not None and text not in PURPOSES:
        raise InvalidRequest(
            f"purpose: must be one of {', '.join(sorted(PURPOSES))}.", param="purpose"
        )
    return text


def expiry_of(parts: Mapping[str, str]) -> int | None:
    """Seconds after which a new file is gone, by its ``expires_after``; None for never."""
    anchor, seconds = (parts.get(f"expires_after[{name}]") for name in ("anchor", "seconds"))
    if anchor is None and seconds is None:
        return None
    if anchor != "created_at":
        raise InvalidRequest(
            "expires_after[anchor]: must be 'created_at'.", param="expires_after[anchor]"
        )
    right = seconds is not None and _SECONDS.fullmatch(seconds) is not None
    if not right or not LEAST_EXPIRY_S <= int(seconds or 0) <= MOST_EXPIRY_S:
        raise InvalidRequest(
            f"expires_after[seconds]: must be from {LEAST_EXPIRY_S} to {MOST_EXPIRY_S}.",
            param="expires_after[seconds]",
        )
    return int(seconds or 0)


def ascending_of(text: str | None) -> bool:
    """Whether a list begins with the oldest."""
    if text not in (None, "asc", "desc"):
        raise InvalidRequest("order: must be asc or desc.", param="order")
    return text == "asc"
