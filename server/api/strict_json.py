"""The JSON object of a body."""

from __future__ import annotations

from adapters import strict_json
from server.core.errors import InvalidRequest

JsonObject = dict[str, object]


def parse_object(body: bytes) -> JsonObject:
    """The JSON object that ``body`` holds, as strictly as ``adapters.strict_json`` reads it.

    Raises InvalidRequest for anything else; no message repeats the body.
    """
    try:
        return strict_json.parse_object(body)
    except strict_json.BadJson as error:
        raise InvalidRequest(f"The body {error}.") from None
