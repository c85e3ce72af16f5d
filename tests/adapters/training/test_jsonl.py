"""Lines of JSON: read one by one, and refused where JSON, UTF-8 or a limit is broken."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.strict_json import MAX_DEPTH, check_values
from adapters.training.jsonl import MAX_LINE_BYTES, BadLine, parse_object, read_lines
from adapters.training.rows import Faults, TextRow, check_rows, read_rows

GOOD = b'{"text": "Good day"}'

WRONG: dict[bytes, str] = {
    b"": "is empty",
    b"   \t": "is empty",
    b"{": "is not JSON: Expecting property name",
    b'{"text": "a"} {"text": "b"}': "is not JSON: Extra data",
    b"[1]": "must be a JSON object",
    b"7": "must be a JSON object",
    b'{"text": NaN}': "NaN is no JSON number",
    b'{"text": -Infinity}': "-Infinity is no JSON number",
    b'{"text": 1e400}': "no double can hold",
    b'{"text": ' + b"9" * 5000 + b"}": "more than 40 digits",
    b'{"text": "a", "text": "b"}': "has the key 'text' twice",
    b'{"text": "\\ud800"}': "half of a surrogate pair",
    b'{"\\ud800": "a"}': "half of a surrogate pair",
    b'{"text": "\xff"}': "is not UTF-8 (byte 11)",
    b"\xef\xbb\xbf" + GOOD: "byte order mark",
    GOOD.decode().encode("utf-16"): "is not UTF-8 (byte 1)",
    b'{"text": ' + b"[" * 100 + b"]" * 100 + b"}": f"nested deeper than {MAX_DEPTH} levels",
    b'{"text": ' + b"[" * 400_000 + b"}": f"nested deeper than {MAX_DEPTH} levels",
    b'{"text": "' + b"a" * MAX_LINE_BYTES + b'"}': "is longer than 1,048,576 bytes",
}


@pytest.mark.parametrize("bad", WRONG, ids=lambda bad: repr(bad[:40]))
def test_a_line_that_is_no_json_object_says_why(bad: bytes) -> None:
    """Also what Python's own reader lets pass."""
    with pytest.raises(BadLine) as caught:
        parse_object(bad)
    assert WRONG[bad] in str(caught.value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({"text": float("nan")}, "not finite"),
        ({"text": [{"a": "\ud800"}]}, "half of a surrogate pair"),
        ({7: "a"}, "a key that is not a text"),
    ],
)
def test_objects_that_came_otherwise_are_held_to_the_same(value: Any, reason: str) -> None:
    """Rows that a request brings are not read from a line."""
    with pytest.raises(BadLine, match=reason):
        check_values(value)


def test_depth_has_a_limit() -> None:
    """The deepest that is allowed, and one more."""
    inner = MAX_DEPTH - 1
    assert parse_object(b'{"a": ' + b"[" * inner + b"]" * inner + b"}")
    with pytest.raises(BadLine, match="nested deeper"):
        parse_object(b'{"a": ' + b"[" * (inner + 1) + b"]" * (inner + 1) + b"}")


@given(
    st.lists(st.binary(max_size=30).filter(lambda text: b"\n" not in text)),
    st.sampled_from([b"\n", b"\r\n"]),
    st.booleans(),
)
def test_lines_come_without_their_breaks(lines: list[bytes], end: bytes, closed: bool) -> None:
    """Either kind; a break at the end of the file begins no line."""
    kept = [text.removesuffix(b"\r") if end == b"\n" else text for text in lines]
    file = io.BytesIO(b"".join(text + end for text in lines))
    if not closed and lines and lines[-1].strip():
        file = io.BytesIO(file.getvalue().removesuffix(end))
        kept[-1] = lines[-1]
    assert list(read_lines(file)) == kept


def test_a_long_line_is_passed_over_in_pieces() -> None:
    """It is one fault, and the lines after it keep their numbers."""
    long = b'{"text": "' + b"a" * (3 * MAX_LINE_BYTES) + b'"}'
    file = io.BytesIO(b"\n".join([long, GOOD, long, GOOD, long]))
    lines = list(read_lines(file))
    assert [len(text) for text in lines] == [
        MAX_LINE_BYTES + 1,
        len(GOOD),
        MAX_LINE_BYTES + 1,
        len(GOOD),
        MAX_LINE_BYTES + 1,
    ]
    faults = Faults()
    assert len(list(read_rows(lines, faults))) == 2
    assert len(faults) == 3


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b""])
def test_a_line_of_the_longest_length_is_read(end: bytes) -> None:
    """The limit itself is allowed, its break not counted."""
    text = b'{"text": "' + b"a" * (MAX_LINE_BYTES - 12) + b'"}'
    assert len(text) == MAX_LINE_BYTES
    (row,) = check_rows(read_lines(io.BytesIO(text + end)))
    assert isinstance(row, TextRow)
    (long,) = read_lines(io.BytesIO(b" " + text + end))
    with pytest.raises(BadLine, match="is longer than"):
        parse_object(long)


class OneLineAtATime(io.RawIOBase):
    """A file that counts how much of it was read."""

    def __init__(self, count: int) -> None:
        self.left, self.given = count, 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: Any) -> int:
        """One line."""
        if not self.left:
            return 0
        self.left -= 1
        self.given += 1
        buffer[: len(GOOD) + 1] = GOOD + b"\n"
        return len(GOOD) + 1


def test_rows_come_while_the_file_is_read() -> None:
    """A file of any size is checked in the memory of a few lines."""
    source = OneLineAtATime(10_000)
    rows = read_rows(read_lines(io.BufferedReader(source, 1024)), Faults())
    next(rows)
    assert source.given < 50
    assert sum(1 for _ in rows) == 9_999
