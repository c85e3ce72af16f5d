"""What a request for completions may hold: kinds of prompts, ranges, and what goes together."""

from __future__ import annotations

from typing import Any

import pytest

from server.api.schema.completions import CompletionRequest
from server.core.errors import InvalidRequest, UnsupportedField
from tests.server.api.requests import read_completion


def test_a_suffix_is_refused_by_name() -> None:
    """A text to be inserted needs a model that was trained for it."""
    with pytest.raises(UnsupportedField) as caught:
        read_completion(suffix="x")
    assert caught.value.param == "suffix"


@pytest.mark.parametrize(
    "prompt",
    [
        5,
        [],
        "",
        None,
        [1, True],
        [1, 1.5],
        [[]],
        [""],
        {"a": 1},
        ["a", 1],
        ["a", [1]],
        [[1], 2],
        [[1, "a"]],
        [[[1]]],
        [None],
    ],
    ids=repr,
)
def test_a_prompt_is_text_or_token_ids_or_a_list_of_either(prompt: Any) -> None:
    """Every other kind is refused by the field's name."""
    with pytest.raises(InvalidRequest) as caught:
        read_completion(prompt=prompt)
    assert not isinstance(caught.value, UnsupportedField)
    assert caught.value.param == "prompt"


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ("a",)),
        (["a", "b"], ("a", "b")),
        ([1, 2, 3], ((1, 2, 3),)),
        ([[1, 2], [3]], ((1, 2), (3,))),
    ],
)
def test_every_kind_of_prompt_is_a_list_of_prompts(prompt: Any, prompts: Any) -> None:
    """Whether ids exist is known where the vocabulary is."""
    assert read_completion(prompt=prompt).prompt == prompts


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("max_tokens", -1),
        ("max_tokens", True),
        ("n", 129),
        ("best_of", 0),
        ("best_of", 21),
        ("best_of", True),
        ("echo", 1),
    ],
)
def test_a_value_that_does_not_fit_a_completion_is_refused_with_its_field(
    field: str, value: Any
) -> None:
    """Ranges are the reference's own."""
    with pytest.raises(InvalidRequest) as caught:
        read_completion(**{field: value})
    assert not isinstance(caught.value, UnsupportedField)
    assert caught.value.param == field


@pytest.mark.parametrize("field", sorted(set(CompletionRequest.model_fields) - {"model", "prompt"}))
def test_null_means_absent_in_completions_too(field: str) -> None:
    """Clients serialise every field that they know."""
    assert read_completion(**{field: None}) == read_completion()


def test_a_completion_may_ask_for_no_token_at_all() -> None:
    """As in the reference: to score a text."""
    assert read_completion(max_tokens=0).most_tokens == 0
    assert read_completion().most_tokens == 16


def test_the_best_are_taken_from_at_least_as_many() -> None:
    """As in the reference, and never streamed."""
    assert read_completion(n=2, best_of=3).candidates == 3
    assert read_completion(n=2).candidates == 2
    assert read_completion(best_of=1, stream=True).candidates == 1
    for fields, words in (
        ({"n": 3, "best_of": 2}, "fewer than the 3"),
        ({"n": 2, "best_of": 3, "stream": True}, "without stream"),
    ):
        with pytest.raises(InvalidRequest, match=words) as caught:
            read_completion(**fields)
        assert caught.value.param == "best_of"


@pytest.mark.parametrize("logprobs", [-1, 6, True, 1.0])
def test_legacy_logprobs_are_a_number_up_to_five(logprobs: Any) -> None:
    """The reference's own limit."""
    with pytest.raises(InvalidRequest) as caught:
        read_completion(logprobs=logprobs)
    assert caught.value.param == "logprobs"
