"""Tokens to text with reports: nothing is lost, nothing beyond a stop is shown."""

from hypothesis import given
from hypothesis import strategies as st

from server.api.transcript import Piece, Transcript
from server.core.messages import Token, TokenLogprobs
from tests.fake_tokenizer import FakeTokenizer


def transcript(*stops: str) -> Transcript:
    """One that decodes bytes."""
    return Transcript(FakeTokenizer().detokenizer(), stops)


def tokens(text: str) -> list[Token]:
    """A token with a report for each byte."""
    return [Token(byte, TokenLogprobs(-float(byte), ())) for byte in text.encode()]


def run(text: str, *stops: str) -> list[Piece]:
    """The pieces of ``text`` until a stop string or the end."""
    script = transcript(*stops)
    pieces = []
    for token in tokens(text):
        pieces.append(script.add(token))
        if script.stopped:
            return pieces
    return [*pieces, script.finish()]


@given(text=st.text(alphabet="ab€😀", max_size=12), stops=st.lists(st.just("b"), max_size=1))
def test_the_text_ends_before_the_stop_and_each_report_fits_it(text: str, stops: list[str]) -> None:
    """Reports are those of the tokens that begin in the shown text, in order, once each."""
    pieces = run(text, *stops)
    shown = "".join(piece.text for piece in pieces)
    assert shown == (text.partition("b")[0] if stops else text)
    reports = [report for piece in pieces for report in piece.reports]
    assert bytes(report.token for report in reports) == shown.encode()
    assert [report.offset for report in reports] == [
        index for index, character in enumerate(shown) for _ in character.encode()
    ]


def test_a_character_of_several_tokens_is_shown_when_it_is_whole() -> None:
    """Half a character is no text."""
    assert [piece.text for piece in run("é")] == ["", "é", ""]


def test_a_report_leaves_with_the_text_of_its_token() -> None:
    """What is held back keeps its reports back."""
    pieces = run("aST!", "STOP")
    assert [piece.text for piece in pieces] == ["a", "", "", "ST!", ""]
    assert [len(piece.reports) for piece in pieces] == [1, 0, 0, 3, 0]


def test_tokens_of_a_stop_string_have_no_report() -> None:
    """They are no part of the text."""
    pieces = run("aSTOP", "STOP")
    assert [report.token for piece in pieces for report in piece.reports] == [ord("a")]


def test_every_token_counts_also_those_of_the_stop_string() -> None:
    """Usage is what the device computed."""
    script = transcript("b")
    for token in tokens("ab"):
        script.add(token)
    assert (script.tokens, script.stopped) == (2, True)


def test_a_stop_string_may_be_completed_by_the_last_held_bytes() -> None:
    """A broken character at the end is text as well, and may be a stop."""
    script = transcript("\ufffd")
    script.add(Token(ord("a")))
    script.add(Token(0xE2))
    assert script.finish() == Piece("")
    assert script.stopped


def test_a_token_without_text_at_the_end_keeps_its_report() -> None:
    """Every drawn token has its probability, also one that shows as nothing."""
    script = transcript()
    script.add(Token(256, TokenLogprobs(-1.0, ())))
    assert [report.token for report in script.finish().reports] == [256]
