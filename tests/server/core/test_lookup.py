"""Prompt lookup: what is guessed to follow a row's tokens, and how sure that is."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.lookup import Lookup

TOKENS = st.lists(st.integers(0, 3), min_size=1, max_size=60)


def looked_up(prompt: list[int], tokens: list[int]) -> Lookup:
    """A lookup after ``prompt`` and ``tokens``."""
    lookup = Lookup(prompt)
    for token in tokens:
        lookup.add(token)
    return lookup


@given(TOKENS, TOKENS)
def test_a_guess_follows_an_earlier_occurrence_of_the_last_two_tokens(
    prompt: list[int], tokens: list[int]
) -> None:
    """Nothing is made up: the guess continues a place where the row has been before."""
    row = [*prompt, *tokens]
    places = [at + 2 for at, pair in enumerate(pairwise(row[:-1])) if [*pair] == row[-2:]]
    proposal = looked_up(prompt, tokens).propose(4)
    assert bool(proposal) == bool(places)
    if proposal:
        assert any((row + proposal)[at : at + 4] == proposal for at in places)


@given(TOKENS)
def test_a_guess_is_the_same_whether_tokens_were_prompt_or_drawn(row: list[int]) -> None:
    """How the tokens came to be says nothing about what follows them, while no guess was judged."""
    drawn = looked_up(row[:1], row[1:])
    given_whole = Lookup(row)
    assert bool(drawn.propose(3)) == bool(given_whole.propose(3))
    assert len(drawn) == len(given_whole) == len(row)


@given(TOKENS, TOKENS, st.integers(1, 8), st.integers(1, 8))
def test_a_shorter_guess_begins_a_longer_one(
    prompt: list[int], tokens: list[int], few: int, more: int
) -> None:
    """How many tokens are asked for changes none of them, nor what the first are worth."""
    lookup = looked_up(prompt, tokens)
    few, more = min(few, more), max(few, more)
    assert lookup.propose(more)[:few] == lookup.propose(few)
    assert lookup.expected(more)[:few] == lookup.expected(few)


@given(TOKENS, TOKENS)
def test_the_expectation_rises_with_each_token_by_less_and_by_at_most_one(
    prompt: list[int], tokens: list[int]
) -> None:
    """A token can only come true where those before it have."""
    expected = [0.0, *looked_up(prompt, tokens).expected(8)]
    steps = [after - before for before, after in pairwise(expected)]
    assert all(0 < step <= 1 for step in steps)
    assert all(later <= earlier for earlier, later in pairwise(steps))


def test_the_longest_of_three_and_two_tokens_decides() -> None:
    """Three tokens that have stood before say more than the latest occurrence of two."""
    assert Lookup([1, 2, 3, 4, 9, 2, 3, 5, 1, 2, 3]).propose(1) == [4]
    assert Lookup([1, 2, 3, 4, 9, 2, 3, 5, 7, 2, 3]).propose(1) == [5]


def test_the_latest_occurrence_decides() -> None:
    """A text is like what stands near."""
    assert Lookup([1, 2, 3, 1, 2, 4, 1, 2]).propose(1) == [4]


def test_a_loop_goes_on_as_a_loop() -> None:
    """The guess may be longer than what there is to copy."""
    assert Lookup([7, 8, 7, 8, 7, 8]).propose(6) == [7, 8, 7, 8, 7, 8]


def test_new_tokens_are_followed_by_no_guess() -> None:
    """Without a precedent the row costs nothing."""
    lookup = Lookup([1, 2, 3, 4])
    assert lookup.propose(4) == lookup.expected(4) == []


@pytest.mark.parametrize("right", [True, False])
def test_chances_follow_what_came_of_earlier_guesses(right: bool) -> None:
    """A row that never does as guessed stops being guessed; one that always does is trusted."""
    lookup = Lookup([1, 2])
    before = looked_up([1, 2, 1, 2], []).expected(1)[0]
    for fresh in range(3, 40):
        lookup.add(1)
        lookup.add(2)
        if not right:
            lookup.add(fresh)
    if not right:
        lookup.add(1)
        lookup.add(2)
    after = lookup.expected(1)[0]
    assert after > 0.9 if right else after < before / 2
