"""Constraints as they are compiled: what they let through, what they refuse, and what they keep."""

from __future__ import annotations

import json
import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.core.constraints import json_object, json_schema
from server.core.errors import InvalidRequest
from server.core.messages import Constraint
from server.engine.grammar_tokens import grammar_tokens
from server.engine.grammars import Grammars, Matcher
from tests.fake_tokenizer import END, FakeTokenizer
from tests.schemas import SCHEMAS

FAKE = Grammars(lambda: grammar_tokens(FakeTokenizer()))
MOST_STEPS = 400
TOWN = {"type": "object", "properties": {"town": {"type": "string"}}}
_CLOSING = frozenset([*b'"}]', END])


def is_whole(matcher: Matcher) -> bool:
    """Asked anew each time, which mypy does not expect of a property."""
    return matcher.is_whole


def bitmask(matcher: Matcher) -> list[int]:
    """The tokens that may follow."""
    mask = matcher.native.compute_bitmask()
    return [token for token in range(END + 1) if mask[token // 8] >> token % 8 & 1]


def wander(matcher: Matcher, seed: int) -> bytes | None:
    """A text of bytes drawn at random from what may follow; None where it does not come to an end.

    Brackets and quotes that close come first half of the time, so that most do.
    """
    draw, text = random.Random(seed), bytearray()
    for _ in range(MOST_STEPS):
        allowed = bitmask(matcher)
        assert matcher.failure() is None
        closing = [token for token in allowed if token in _CLOSING]
        token = draw.choice(closing if closing and draw.random() < 0.5 else allowed)
        matcher.take(token)
        if token == END:
            return bytes(text)
        text.append(token)
        if matcher.is_whole:
            return bytes(text)
    return None


@settings(max_examples=150, deadline=None)
@given(schema=SCHEMAS, seed=st.integers(0, 2**32))
def test_whatever_a_schema_lets_through_is_valid(schema: dict[str, Any], seed: int) -> None:
    """By the reference implementation of JSON schema, format and pattern included."""
    try:
        matcher = FAKE.grammar(json_schema(schema)).matcher()
    except InvalidRequest as refused:
        assert "nsatisfiable" in str(refused) or "no text" in str(refused), (schema, str(refused))  # noqa: PT017
        return
    text = wander(matcher, seed)
    if text is not None:
        checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
        jsonschema.Draft202012Validator(schema, format_checker=checker).validate(json.loads(text))


@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=6,
    )
)
@settings(max_examples=60, deadline=None)
def test_every_json_value_can_be_said(value: Any) -> None:
    """As ``json.dumps`` lays it out: the layout takes nothing away."""
    text = json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    matcher = FAKE.grammar(json_schema({})).matcher()
    for byte in text.encode():
        matcher.take(byte)
    assert matcher.failure() is None
    assert matcher.native.is_accepting()


def test_equal_constraints_are_compiled_once_even_at_the_same_time() -> None:
    """By what they say, whatever field they came in."""
    made: list[object] = []

    def tokens() -> object:
        made.append(grammar_tokens(FakeTokenizer()))
        return made[-1]

    grammars = Grammars(tokens)
    fields = [f"field{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = list(
            pool.map(lambda field: grammars.grammar(json_schema(TOWN, field=field)), fields)
        )
    assert len({id(grammar) for grammar in found}) == 1
    assert len(made) == 1


def test_the_latest_constraints_are_kept_and_no_more() -> None:
    """A client cannot fill the memory with them."""
    grammars = Grammars(lambda: grammar_tokens(FakeTokenizer()))
    first = grammars.grammar(Constraint("regex", "a{1,1}"))
    second = grammars.grammar(Constraint("regex", "a{1,2}"))
    for most in range(3, 66):
        grammars.grammar(Constraint("regex", f"a{{1,{most}}}"))
        assert grammars.grammar(Constraint("regex", "a{1,1}")) is first
    assert grammars.grammar(Constraint("regex", "a{1,2}")) is not second


def test_a_refused_constraint_is_refused_again() -> None:
    """Nothing is kept of it."""
    for _ in range(2):
        with pytest.raises(InvalidRequest, match="invalid regex"):
            FAKE.grammar(Constraint("regex", "("))


def test_rows_of_one_constraint_do_not_move_each_other() -> None:
    """Each has a matcher of its own."""
    grammar = FAKE.grammar(Constraint("regex", "ab"))
    first, second = grammar.matcher(), grammar.matcher()
    first.take(ord("a"))
    assert first.forced() == [ord("b")]
    assert second.forced() == [ord("a"), ord("b")]


def test_tokens_can_be_taken_back() -> None:
    """What was forced ahead is taken again when it is drawn."""
    matcher = FAKE.grammar(Constraint("regex", "abc")).matcher()
    for token in b"abc":
        matcher.take(token)
    assert is_whole(matcher)
    matcher.take_back(2)
    assert not is_whole(matcher)
    assert matcher.forced() == [*b"bc"]


def test_an_end_token_makes_a_text_whole() -> None:
    """Where it might have gone on."""
    matcher = FAKE.grammar(Constraint("regex", "a+")).matcher()
    matcher.take(ord("a"))
    assert not is_whole(matcher)
    matcher.take(END)
    assert is_whole(matcher)
    assert matcher.forced() == []


def test_a_text_that_needs_more_work_than_is_allowed_fails_with_the_field() -> None:
    """Its row ends with this error."""
    matcher = FAKE.grammar(
        Constraint("regex", "((a{1,100}){1,100}){1,100}", "guided_regex")
    ).matcher()
    for _ in range(200):
        matcher.native.compute_bitmask()
        if (failure := matcher.failure()) is not None:
            assert failure.param == "guided_regex"
            return
        matcher.take(ord("a"))
    pytest.fail("no limit was met")


@pytest.mark.parametrize(
    "source",
    [
        'start: %json {"type": "object"}',
        'start: "%json {" "x"',
        'start: "%json {}"',
        'start: %json   {"type": "integer", "x-guidance": {"whitespace_flexible": true}} "!"',
    ],
)
def test_schemas_in_a_grammar_are_found_where_they_stand(source: str) -> None:
    """And words that look like one are left alone."""
    assert FAKE.grammar(Constraint("lark", source)).matcher().failure() is None


def test_json_in_a_grammar_is_laid_out_as_any_other() -> None:
    """On one line, with a space behind each comma and colon."""
    schema = json.dumps({"properties": {"a": {}, "b": {}}, "required": ["a", "b"]})
    matcher = FAKE.grammar(Constraint("lark", f'start: "<" %json {schema} ">"')).matcher()
    for token in b'<{"a": 1':
        matcher.take(token)
    for token in b', "b": 2}>':
        assert matcher.failure() is None
        matcher.take(token)
    assert matcher.is_whole


@pytest.mark.parametrize("source", ["start: %json " + "[" * 5000, "start: %json " + '{"a":' * 5000])
def test_a_schema_nested_without_end_in_a_grammar_is_refused(source: str) -> None:
    """Not followed by a recursive reader."""
    with pytest.raises(InvalidRequest):
        FAKE.grammar(Constraint("lark", source))


@pytest.mark.parametrize(
    ("format_", "text", "passes"),
    [
        ("date", "2024-02-29", True),
        ("date", "2000-02-29", True),
        ("date", "2023-02-28", True),
        ("date", "2023-12-31", True),
        ("date", "2023-02-29", False),
        ("date", "1900-02-29", False),
        ("date-time", "2024-02-29T10:00:00Z", True),
        ("date-time", "2023-02-29T10:00:00Z", False),
    ],
)
def test_a_date_is_one_of_the_calendar(format_: str, text: str, passes: bool) -> None:
    """The format alone lets the 29th of February of every year through."""
    matcher = FAKE.grammar(json_schema({"type": "string", "format": format_})).matcher()
    taken = all(matcher.native.consume_token(byte) for byte in json.dumps(text).encode())
    assert (taken and matcher.native.is_accepting()) == passes


def test_a_model_that_cannot_end_a_text_is_refused_by_the_field() -> None:
    """Its end token lies outside its vocabulary: a request must not make that an internal error."""

    tokenizer = FakeTokenizer()
    tokenizer.end_tokens = frozenset({tokenizer.vocab_size})
    grammars = Grammars(lambda: grammar_tokens(tokenizer))
    with pytest.raises(InvalidRequest, match="none of its end tokens") as caught:
        grammars.grammar(json_object())
    assert caught.value.param == "response_format"


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("regex", "a{100000000}"),
        Constraint("regex", "b?(((((a{30}){30}){30}){30}){30})"),
        Constraint("lark", 'start: A\nA: B{500}\nB: C{500}\nC: "a"{500}'),
        Constraint("lark", 'start: /a{100000000}/\n%llguidance {"no_forcing": false}'),
        Constraint("lark", 'start: %json {"type": "string", "pattern": "^a{100000000}$"}'),
        Constraint(
            "lark",
            "start: A0\n" + "".join(f"A{n}: A{n + 1} A{n + 1}\n" for n in range(22)) + 'A22: "a"',
        ),
        json_schema({"type": "string", "pattern": "^a{100000000}$"}),
        json_schema({"type": "object", "patternProperties": {"^a{100000000}$": True}}),
    ],
)
def test_a_long_text_that_is_certain_is_not_written_down_before_it_is_drawn(
    constraint: Constraint,
) -> None:
    """It took gigabytes and minutes, and in the end the process."""
    matcher = FAKE.grammar(constraint).matcher()
    started = time.process_time()
    for _ in range(20):
        assert matcher.forced() == []
        allowed = bitmask(matcher)
        matcher.take(next(token for token in b'a{"' if token in allowed))
        assert matcher.failure() is None
    assert time.process_time() - started < 2


def test_a_short_text_that_is_certain_still_is() -> None:
    """A number of a telephone has three parts, and what lies between is known."""
    matcher = FAKE.grammar(Constraint("regex", "[0-9]{3}-[0-9]{4}")).matcher()
    for digit in b"555":
        matcher.take(digit)
    assert matcher.forced() == [ord("-")]


@pytest.mark.parametrize(
    "constraint",
    [
        Constraint("lark", "start: start start", "guided_grammar"),
        json_schema({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    ],
)
def test_a_rule_that_needs_itself_is_refused_in_words(constraint: Constraint) -> None:
    """llguidance says no more than a name of its own."""
    with pytest.raises(InvalidRequest, match="no text satisfies it"):
        FAKE.grammar(constraint)


def test_a_divisor_must_be_above_0() -> None:
    """By its path; the compiler would not say where."""
    schema = {"type": "array", "items": {"type": "integer", "multipleOf": 0}}
    with pytest.raises(InvalidRequest, match=r"items.*multipleOf must be above 0"):
        FAKE.grammar(json_schema(schema))
