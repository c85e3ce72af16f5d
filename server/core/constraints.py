"""Constraints made from values that came over the wire."""

from __future__ import annotations

import json
from collections.abc import Sequence

from server.core.messages import Constraint


def json_schema(schema: object, *, field: str = "response_format") -> Constraint:
    """Text that is JSON and fits ``schema``."""
    return Constraint("json_schema", json.dumps(schema), field)


def json_object(*, field: str = "response_format") -> Constraint:
    """Text that is a JSON object, whichever."""
    return Constraint("json_object", field=field)


def choice(choices: Sequence[str], *, field: str = "guided_choice") -> Constraint:
    """Text that is one of ``choices``."""
    return Constraint("choice", json.dumps(list(choices)), field)
