"""The JSON reader: what is JSON comes in unchanged, everything else is refused in words."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.strict_json import MAX_DEPTH, MAX_DIGITS
from server.api.strict_json import parse_object
from server.core.errors import InvalidRequest

TEXT = st.text(alphabet=st.characters(exclude_categories=["Cs"]), max_size=8)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**20), 10**20)
    | st.floats(allow_nan=False, allow_infinity=False)
    | TEXT
)
VALUES = st.recursive(
    SCALARS,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(TEXT, children, max_size=4),
    max_leaves=12,
)


@given(value=st.dictionaries(TEXT, VALUES, max_size=4), escape=st.booleans())
def test_every_json_object_is_read_as_it_was_written(value: object, escape: bool) -> None:
    """Strictness must not cost a valid request."""
    assert parse_object(json.dumps(value, ensure_ascii=escape).encode()) == value


@given(body=st.binary(max_size=64))
def test_bytes_are_read_or_refused_and_nothing_else(body: bytes) -> None:
    """No body makes the reader raise anything but InvalidRequest."""
    try:
        value = parse_object(body)
    except InvalidRequest:
        return
    assert isinstance(value, dict)


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[]", "must be a JSON object"),
        (b'"x"', "must be a JSON object"),
        (b'{"a":NaN}', "NaN is no JSON number"),
        (b'{"a":-Infinity}', "-Infinity is no JSON number"),
        (b'{"a":1e400}', "no double can hold"),
        (b'{"a":-1e400}', "no double can hold"),
        (b'{"a":' + b"9" * 5000 + b"}", f"more than {MAX_DIGITS} digits"),
        (b'{"a":1,"b":2,"a":3}', "has the key 'a' twice"),
        (b'{"x":{"a":1,"a":1}}', "has the key 'a' twice"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":["\\udfff x"]}', "surrogate"),
        (b'{"\\ud800":1}', "surrogate"),
        (b"\xff{}", "not UTF-8"),
        ("\ufeff{}".encode(), "not JSON"),
        (b'{"a":1}{"b":2}', "not JSON"),
    ],
)
def test_what_a_strict_reader_refuses_is_refused_with_the_reason(body: bytes, why: str) -> None:
    """Python's reader takes most of these."""
    with pytest.raises(InvalidRequest, match=why):
        parse_object(body)


def test_a_surrogate_pair_is_one_character() -> None:
    """Only half a pair is no character."""
    assert parse_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\N{GRINNING FACE}"}


def nested(depth: int) -> bytes:
    """An object of ``depth`` levels, itself the first."""
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_nesting_is_allowed_up_to_the_limit() -> None:
    """One level more is refused."""
    parse_object(nested(MAX_DEPTH))
    with pytest.raises(InvalidRequest, match=f"deeper than {MAX_DEPTH}"):
        parse_object(nested(MAX_DEPTH + 1))


def test_nesting_beyond_python_s_own_limit_is_refused_in_the_same_words() -> None:
    """The reader's recursion error must not become a 500."""
    with pytest.raises(InvalidRequest, match=f"deeper than {MAX_DEPTH}"):
        parse_object(b'{"a":' + b"[" * 100_000)


def test_width_is_not_depth() -> None:
    """A long list of lists is shallow."""
    body = json.dumps({"a": [[1]] * (2 * MAX_DEPTH)}).encode()
    assert parse_object(body) == {"a": [[1]] * (2 * MAX_DEPTH)}


def test_no_message_repeats_the_body() -> None:
    """A prompt must not turn up in logs and errors."""
    secret = "x" * 1000
    for body in (f'{{"{secret}":1,"{secret}":2}}', f'{{"a":{secret}}}', f'{{"a":"{secret}'):
        with pytest.raises(InvalidRequest) as caught:
            parse_object(body.encode())
        assert "x" * 65 not in str(caught.value)


def test_numbers_at_the_edge_of_a_double_are_kept() -> None:
    """The limit is the double's, not an order of magnitude below it."""
    assert parse_object(b'{"a":1.7976931348623157e308}') == {"a": math.nextafter(math.inf, 0)}
