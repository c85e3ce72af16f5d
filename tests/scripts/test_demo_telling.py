"""How the tour is told, on a terminal and elsewhere."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from scripts.demo_telling import Telling, is_bold
from server.screen import Screen

STAGE = {
    "id": "s1",
    "number": 1,
    "chain": "desk",
    "model": "tiny:desk@1",
    "progress": {"steps": 10},
}


class Paper:
    """What was written to a screen."""

    def __init__(self, *, is_terminal: bool = False, columns: int = 80) -> None:
        self.text = ""
        self.screen = Screen(self._write, input, is_terminal, width=lambda: columns)

    def _write(self, text: str) -> None:
        self.text += text

    def seen(self) -> list[str]:
        """The lines as they stand on a terminal in the end."""
        lines = []
        for line in self.text.split("\n"):
            shown = ""
            for drawn in line.split("\r"):
                shown = drawn + shown[len(drawn) :]
            lines.append(shown.rstrip())
        return lines


def step(number: int) -> dict[str, Any]:
    """An event."""
    data = {"step": number, "steps": 10, "loss": 0.5, "tokens_per_s": 100.0}
    return {"id": number, "kind": "step", "data": data}


def clock() -> Callable[[], float]:
    """Every look takes a second."""
    return itertools.count().__next__


def test_a_promise_that_is_not_kept_is_remembered() -> None:
    """It decides the exit code; what was kept does not."""
    paper = Paper()
    telling = Telling(paper.screen)
    telling.expect(True, "kept")
    telling.expect(False, "broken")
    assert telling.missed == ["broken"]
    assert paper.text == "  ok  kept\n  NOT broken\n"


def test_a_heading_says_when_and_is_bold_on_a_terminal_alone() -> None:
    """Where bold was asked for."""
    terminal, plain = Paper(is_terminal=True), Paper()
    Telling(terminal.screen, plain.screen, bold=True, now=lambda: 7.0).heading("Part")
    assert plain.text == "\n[  0 s] Part\n"
    assert terminal.text == "\n\x1b[1m[  0 s] Part\x1b[0m\n"


def test_training_is_a_bar_on_a_terminal_and_some_lines_elsewhere() -> None:
    """One line of the terminal is drawn again and again; both have the margin."""
    terminal, plain = Paper(is_terminal=True), Paper()
    telling = Telling(terminal.screen, plain.screen)
    with telling.training(STAGE) as show:
        show({"id": 0, "kind": "state", "data": {"state": "running"}})
        for number in range(1, 11):
            show(step(number))
    first = "    s1: stage 1 of desk, tiny:desk@1"
    lines = plain.text.splitlines()
    assert lines[0] == first
    assert [line.split("  ")[2].strip() for line in lines[1:]] == [
        "step 1/10",
        "step 5/10",
        "step 10/10",
    ]
    assert "\r" not in plain.text
    assert terminal.text.count("\r") == 10
    assert terminal.seen() == [
        first,
        "    [################] step 10/10  100 %  loss 0.5000  100 tokens/s",
        "",
    ]


def test_a_bar_that_counts_is_gone_afterwards() -> None:
    """And is nowhere but on a terminal, in its width."""
    terminal, plain = Paper(is_terminal=True, columns=40), Paper()
    with Telling(terminal.screen, plain.screen).counting(4, "tickets, a-long-name") as one_more:
        one_more()
        assert terminal.text.endswith("\r    [####............] tickets, a-long-")
    assert terminal.seen() == [""]
    assert plain.text == ""


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_answers_stand_side_by_side_in_the_width_of_the_screen(columns: int) -> None:
    """The first column is cut, the others are whole; an answer that is right is marked."""
    paper = Paper(is_terminal=True, columns=columns)
    rows = [
        ("Where?", "billing", ["I am sorry for your loss and for more", "billing", "billing"]),
        ("How many?", "92 towels", ["I am", "billing", "92 towels"]),
    ]
    Telling(paper.screen).side_by_side(["base", "stage 1", "head"], rows)
    names, prompt, first, _, second = paper.text.splitlines()
    assert names.split() == ["base", "stage", "1", "head"]
    assert prompt == "    Where?"
    assert first.startswith("      I am sorry for your loss")
    assert ("..." in first) is (columns == 60)
    assert first.endswith("billing *  billing *")
    assert second.endswith("billing    92 towels *")
    assert names.index("head") == first.rindex("billing *") == second.index("92")
    assert max(map(len, paper.text.splitlines())) <= columns


def test_a_line_is_wrapped_under_its_own_beginning() -> None:
    """And a short one is left as it is."""
    paper = Paper(is_terminal=True, columns=30)
    Telling(paper.screen).line("  The model tiny:desk@1 does not exist.")
    Telling(paper.screen).line("  -> billing")
    assert paper.text == ("      The model tiny:desk@1\n      does not exist.\n      -> billing\n")


def test_the_last_screen_has_everything_once_more() -> None:
    """Accuracies, promises and the end, wrapped to the width."""
    paper = Paper(is_terminal=True, columns=40)
    telling = Telling(paper.screen, now=clock())
    telling.expect(True, "the base answers as before")
    paper.text = ""
    end = ["All 1 promises kept, in 154 s. The server has stopped."]
    telling.last("What was seen", [["right", "base"], ["tickets", "0 %"]], end)
    assert paper.text.splitlines() == [
        "",
        "-" * 40,
        "What was seen",
        "",
        "    right    base",
        "    tickets   0 %",
        "",
        "  ok  the base answers as before",
        "",
        "All 1 promises kept, in 154 s. The",
        "server has stopped.",
    ]
    assert telling.seconds == 1


@pytest.mark.parametrize(
    ("term", "no_color", "bold"),
    [("xterm", None, True), ("dumb", None, False), (None, None, False), ("xterm", "1", False)],
)
def test_bold_is_for_terminals_that_take_it(
    term: str | None, no_color: str | None, bold: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By TERM and NO_COLOR."""
    for name, value in (("TERM", term), ("NO_COLOR", no_color)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    assert is_bold() is bold
