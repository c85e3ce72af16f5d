"""JSON lines as RFC 8259 has them, read one by one under limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO

from adapters import strict_json
from adapters.strict_json import BadJson

MAX_LINE_BYTES = 1024 * 1024
"""Of one line, without its line break."""
_BOM = b"\xef\xbb\xbf"


BadLine = BadJson
"""A line is not what it must be: as JSON, or as a row of training data."""


def read_lines(file: BinaryIO) -> Iterator[bytes]:
    """The lines of ``file`` without their breaks (LF or CR LF), holding one at a time.

    Of a line that is too long the first ``MAX_LINE_BYTES`` + 1 bytes come, which ``parse_object``
    refuses. A break at the end of the file begins no line.
    """
    # Two bytes more than the limit: room for a break.
    while line := file.readline(MAX_LINE_BYTES + 2):
        whole = line.endswith(b"\n")
        text = line.removesuffix(b"\n").removesuffix(b"\r") if whole else line
        yield text[: MAX_LINE_BYTES + 1]
        while not whole and (rest := file.readline(MAX_LINE_BYTES)):
            whole = rest.endswith(b"\n")


def parse_object(line: bytes) -> dict[str, Any]:
    """The JSON object that ``line`` holds.

    Raises BadLine for anything else, and for what Python's reader lets pass: NaN and Infinity,
    numbers beyond a double, keys that occur twice, half a surrogate pair, a byte order mark.
    """
    if len(line) > MAX_LINE_BYTES:
        raise BadLine(f"is longer than {MAX_LINE_BYTES:,} bytes")
    if line.startswith(_BOM):
        raise BadLine("begins with a byte order mark: save the file as UTF-8 without one")
    if not line.strip():
        raise BadLine("is empty: take it out")
    return strict_json.parse_object(line)
