"""Stop strings: where text ends, whatever the pieces that it arrives in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.text import StopMatcher

LETTERS = st.text(alphabet="ab\n", max_size=24)
STOPS = st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=4)


def feed(stops: list[str], pieces: list[str]) -> tuple[str, bool]:
    """All text that is let through, and whether a stop was found."""
    matcher = StopMatcher(stops)
    text = "".join(matcher.push(piece) for piece in pieces)
    return text + matcher.finish(), matcher.hit


def plain(stops: list[str], text: str) -> tuple[str, bool]:
    """The rule without pieces: the shortest beginning that ends with a stop, minus that stop."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(stops=STOPS, pieces=st.lists(LETTERS, max_size=8))
def test_the_result_does_not_depend_on_the_pieces(stops: list[str], pieces: list[str]) -> None:
    """Tokens cut text anywhere; the client must not see where."""
    assert feed(stops, pieces) == plain(stops, "".join(pieces))


@given(stops=STOPS, text=LETTERS)
def test_text_is_let_through_as_soon_as_it_is_certain(stops: list[str], text: str) -> None:
    """Only a suffix that begins a stop string is held back, so a stream does not lag."""
    matcher = StopMatcher(stops)
    shown = "".join(matcher.push(character) for character in text)
    held = text[len(shown) :]
    if not matcher.hit:
        assert held == "" or any(stop.startswith(held) and stop != held for stop in stops)


@given(stops=STOPS.filter(bool), before=LETTERS, after=LETTERS)
def test_no_stop_string_is_ever_shown(stops: list[str], before: str, after: str) -> None:
    """Neither whole nor as the beginning of the one that was found."""
    text, hit = feed(stops, [before, stops[0], after])
    assert hit
    assert not any(stop in text for stop in stops)


def test_nothing_follows_a_stop() -> None:
    """Tokens that were on their way when the stop was found are dropped."""
    matcher = StopMatcher(["#"])
    assert matcher.push("a#b") == "a"
    assert (matcher.push("c"), matcher.finish()) == ("", "")


def test_without_stops_text_passes_unchanged() -> None:
    """The common case holds nothing back."""
    assert StopMatcher([]).push("abc") == "abc"


def test_what_was_held_back_is_given_at_the_end() -> None:
    """A beginning that never became a stop is text."""
    matcher = StopMatcher(["STOP"])
    assert matcher.push("a ST") == "a "
    assert matcher.finish() == "ST"
    assert not matcher.hit


def test_an_empty_stop_string_is_refused() -> None:
    """It is found everywhere."""
    with pytest.raises(ValueError, match="empty"):
        StopMatcher(["a", ""])
