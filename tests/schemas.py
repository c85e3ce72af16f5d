"""Small JSON schemas for property tests, over every keyword that is enforced."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

Schema = dict[str, Any]
_NAMES = st.sampled_from(["a", "name", "is it?", 'say "x"', "naïve", "x/y~z", ""])
_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-99, 99),
    st.text(max_size=4),
    st.sampled_from([0.5, -1.25]),
)


def _some(**optional: st.SearchStrategy[Any]) -> st.SearchStrategy[Schema]:
    return st.fixed_dictionaries({}, optional=optional)


@st.composite
def _bounds(draw: st.DrawFn, low: str, high: str, most: int) -> Schema:
    first, second = sorted((draw(st.integers(0, most)), draw(st.integers(0, most))))
    return draw(st.sampled_from([{}, {low: first}, {high: second}, {low: first, high: second}]))


def _with(kind: str, *parts: st.SearchStrategy[Schema]) -> st.SearchStrategy[Schema]:
    return st.tuples(*parts).map(
        lambda found: {"type": kind, **{key: v for part in found for key, v in part.items()}}
    )


@st.composite
def _objects(draw: st.DrawFn, children: st.SearchStrategy[Schema]) -> Schema:
    properties = draw(st.dictionaries(_NAMES, children, max_size=3))
    schema: Schema = {"type": "object", "properties": properties}
    if properties:
        schema["required"] = draw(st.lists(st.sampled_from(list(properties)), unique=True))
    extra = draw(st.sampled_from([None, False, {"type": "integer"}]))
    if extra is not None:
        schema["additionalProperties"] = extra
    return schema


@st.composite
def _arrays(draw: st.DrawFn, children: st.SearchStrategy[Schema]) -> Schema:
    schema = {"type": "array", "items": draw(children), **draw(_bounds("minItems", "maxItems", 2))}
    if draw(st.booleans()):
        schema["prefixItems"] = draw(st.lists(children, min_size=1, max_size=2))
    return schema


_LEAVES = st.one_of(
    _with("string", _bounds("minLength", "maxLength", 5)),
    _with(
        "string",
        st.sampled_from(["^[a-c]+$", "x", "^a|b$", "[0-9]{2}"]).map(lambda p: {"pattern": p}),
    ),
    _with(
        "string",
        st.sampled_from(["date", "time", "ipv4", "uuid", "email"]).map(lambda f: {"format": f}),
    ),
    _with("integer", _bounds("minimum", "maximum", 40), _some(multipleOf=st.integers(1, 4))),
    _with("number", _bounds("exclusiveMinimum", "maximum", 40)),
    _with("number", _some(multipleOf=st.sampled_from([0.5, 0.25, 3]))),
    st.sampled_from(["boolean", "null", ["string", "null"]]).map(lambda kind: {"type": kind}),
    st.lists(_SCALARS, min_size=1, max_size=3).map(lambda values: {"enum": values}),
    _SCALARS.map(lambda value: {"const": value}),
)

SCHEMAS: st.SearchStrategy[Schema] = st.recursive(
    _LEAVES,
    lambda children: st.one_of(
        _objects(children),
        _arrays(children),
        st.lists(children, min_size=1, max_size=2).map(lambda each: {"anyOf": each}),
    ),
    max_leaves=5,
)
