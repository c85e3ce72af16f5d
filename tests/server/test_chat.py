"""The terminal chat: commands, transcript, and answers from a real HTTP server."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.chat import (
    HELP,
    Chat,
    ChatError,
    Client,
    Command,
    Say,
    Transcript,
    parse_line,
)
from tests.fakes import saying
from tests.live_server import LiveServer, live_server

LINES = st.text(st.characters(exclude_categories=["Cs", "Cc"]))


@pytest.fixture(scope="module")
def server() -> Iterator[LiveServer]:
    """A server whose every row says hello."""
    with live_server() as running:
        yield running


class Screen:
    """What a user would have seen."""

    def __init__(self) -> None:
        self.text = ""

    def __call__(self, text: str) -> None:
        """Written as the terminal would."""
        self.text += text


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("", None),
        ("  \n", None),
        (" hi there\n", Say("hi there")),
        ("/quit", Command("quit")),
        ("/model tiny:pirate\n", Command("model", "tiny:pirate")),
        ("/system  be brief ", Command("system", "be brief")),
        ("//etc is a path", Say("/etc is a path")),
        ("/", Command("")),
    ],
)
def test_a_line_is_a_command_or_something_to_say(line: str, meaning: Say | Command | None) -> None:
    """A slash starts a command, two say a slash, blank lines mean nothing."""
    assert parse_line(line) == meaning


@given(LINES)
def test_nothing_that_is_said_gets_lost(text: str) -> None:
    """Every line without a leading slash reaches the model, but for the blanks around it."""
    said = text.strip()
    expected = None if not said else Say(said)
    if not said.startswith("/"):
        assert parse_line(text + "\n") == expected
    assert parse_line(f"//{said}") == Say(f"/{said}".rstrip())


@given(st.text(min_size=0), st.lists(st.tuples(st.text(), st.text()), max_size=4), st.text())
def test_a_transcript_alternates_and_ends_with_the_question(
    system: str, turns: list[tuple[str, str]], question: str
) -> None:
    """System first where there is one, then user and assistant in turn, the question last."""
    transcript = Transcript("tiny", system, tuple(turns))
    rows = transcript.messages(question)
    roles = ["system"] * bool(system) + ["user", "assistant"] * len(turns) + ["user"]
    assert [row["role"] for row in rows] == roles
    assert rows[-1]["content"] == question


def test_an_answer_is_streamed_and_joins_the_conversation(server: LiveServer) -> None:
    """The text is written as it comes; the next request carries question and answer."""
    chat, screen = _chat(server)
    assert chat.handle("hi\n")
    assert screen.text == "hello\n"
    chat.handle("again\n")
    prompt = _last_prompt(server)
    assert "<user>hi\n<assistant>hello\n<user>again\n<assistant>" in prompt


def test_the_first_listed_model_answers_by_default(server: LiveServer) -> None:
    """Without --model the base answers, which the server lists first."""
    chat, _ = _chat(server)
    chat.handle("hi")
    assert chat.model == "tiny"
    assert server.engine.submitted[-1].revision is None


@pytest.mark.parametrize(("given", "sent"), [(None, 1.0), (0.0, 0.0), (0.5, 0.5)])
def test_the_temperature_goes_with_every_question(
    server: LiveServer, given: float | None, sent: float
) -> None:
    """Not given, it is left to the server."""
    Chat(Client(server.url, temperature=given), Screen()).handle("hi")
    assert server.engine.submitted[-1].sampling.temperature == sent


def test_model_switches_and_keeps_the_conversation(server: LiveServer) -> None:
    """After /model the named adapter answers, knowing what was said."""
    chat, screen = _chat(server)
    chat.handle("hi")
    chat.handle("/model tiny:pirate")
    chat.handle("again")
    assert "model: tiny:pirate\n" in screen.text
    assert server.engine.submitted[-1].revision == "rev-pirate"
    assert "hello" in _last_prompt(server)


@pytest.mark.parametrize("command", ["/models", "/model"])
def test_models_lists_every_name_and_marks_the_present_one(
    server: LiveServer, command: str
) -> None:
    """A star stands before the model that answers."""
    chat, screen = _chat(server, model="tiny:pirate")
    chat.handle(command)
    assert screen.text == "  tiny\n* tiny:pirate\n"


def test_an_unknown_model_is_refused_and_the_present_one_stays(server: LiveServer) -> None:
    """The server's own reason is shown; the conversation goes on."""
    chat, _ = _chat(server)
    with pytest.raises(ChatError, match=r"tiny:nobody.*HTTP 404"):
        chat.handle("/model tiny:nobody")
    assert chat.model == "tiny"


def test_a_conversation_cannot_start_with_an_unknown_model(server: LiveServer) -> None:
    """--model is checked before the first question."""
    with pytest.raises(ChatError, match="tiny:nobody"):
        _chat(server, model="tiny:nobody")


def test_system_is_set_and_removed(server: LiveServer) -> None:
    """/system TEXT sends the text first in every request, /system alone stops that."""
    chat, _ = _chat(server)
    chat.handle("/system be brief")
    chat.handle("hi")
    assert "<system>be brief\n<user>hi" in _last_prompt(server)
    chat.handle("/system")
    chat.handle("hi")
    assert "<system>" not in _last_prompt(server)


def test_reset_forgets_turns_and_keeps_model_and_system(server: LiveServer) -> None:
    """After /reset the request holds the system message and the question alone."""
    chat, _ = _chat(server, model="tiny:pirate")
    chat.handle("/system be brief")
    chat.handle("first")
    chat.handle("/reset")
    chat.handle("second")
    assert chat.model == "tiny:pirate"
    assert "<system>be brief\n<user>second\n" in _last_prompt(server)
    assert "first" not in _last_prompt(server)


def test_help_and_quit(server: LiveServer) -> None:
    """/help lists the commands, /quit ends; neither asks the server."""
    chat, screen = _chat(server)
    before = len(server.engine.submitted)
    assert chat.handle("/help")
    assert screen.text == HELP
    assert not chat.handle("/quit")
    assert len(server.engine.submitted) == before


def test_an_unknown_command_says_what_to_do(server: LiveServer) -> None:
    """A misspelled command is an error, never something said to the model."""
    chat, _ = _chat(server)
    with pytest.raises(ChatError, match=r"No such command: /modle\. /help"):
        chat.handle("/modle tiny")


def test_ctrl_c_stops_the_answer_not_the_program() -> None:
    """The request is cancelled, what was seen stays in the conversation, and one can go on."""
    with live_server(lambda _: itertools.repeat(ord("a"))) as server:
        screen = Screen()
        server.do(server.engine.hold)
        server.do(lambda: server.engine.step(3))

        def interrupted(text: str) -> None:
            screen(text)
            if screen.text == "aaa":
                raise KeyboardInterrupt

        chat = Chat(Client(server.url), interrupted)
        assert chat.handle("hi")
        assert screen.text == "aaa [stopped]\n"
        first = server.engine.submitted[0].request_id
        server.wait_until(lambda: first in server.engine.cancelled)
        server.engine.script = saying("done")
        server.do(server.engine.release)
        chat.handle("go on")
        assert screen.text.endswith("done\n")
        assert "<assistant>aaa\n<user>go on" in _last_prompt(server)


def test_an_engine_failure_in_mid_answer_is_told() -> None:
    """An error event in the stream becomes the message, after the text that came before it."""
    with live_server(lambda _: itertools.repeat(ord("a"))) as failing:
        screen = Screen()
        failing.do(failing.engine.hold)
        failing.do(lambda: failing.engine.step(2))

        def write(text: str) -> None:
            screen(text)
            if screen.text == "aa":
                failing.do(failing.engine.poison)

        chat = Chat(Client(failing.url), write)
        with pytest.raises(ChatError, match="device failed"):
            chat.handle("hi")
        assert screen.text == "aa\n"


def _chat(server: LiveServer, *, model: str = "") -> tuple[Chat, Screen]:
    screen = Screen()
    return Chat(Client(server.url), screen, model=model), screen


def _last_prompt(server: LiveServer) -> str:
    return bytes(server.engine.submitted[-1].prompt[1:]).decode()
