"""The bound on what a pattern's repetitions come to."""

from __future__ import annotations

import pytest

from server.core.repeats import most_written, most_written_rules


@pytest.mark.parametrize(
    ("pattern", "most"),
    [
        ("abc", 3),
        ("a{3}", 4 * 3),
        ("a{2,5}", 6 * 5),
        ("a{7,}", 5 * 7),
        ("a{,4}b{ 2 , 3 }", 15 * 12),
        ("a{0}", 4),
        ("((a{10}){10}){10}", 17 * 1000),
        ("x~3 y~2..5", 10 * 15),
        (r"\p{L}", 5),
    ],
)
def test_every_count_multiplies(pattern: str, most: int) -> None:
    """Whether they are nested or not: too much costs nothing but a short cut."""
    assert most_written(pattern) == most


def test_no_count_is_too_long_to_read() -> None:
    """Python refuses integers of thousands of digits, which a pattern may hold."""
    assert most_written(f"a{{{'9' * 6000}}}") > 10**20


def test_terminals_multiply_by_how_often_they_are_named() -> None:
    """By one another: the definition is no use, and rules write out nothing."""
    grammar = 'start: A " " A\nA: B B B\n | B C\nB: C C\nC: "c"\nother[lazy]: A A'
    assert most_written_rules(grammar) == len(grammar) * 2 * 4 * 3
