"""How the tour is told: with bars on a terminal, as plain lines elsewhere and in a transcript."""

from __future__ import annotations

import os
import re
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TextIO

from server.admin_client import Json
from server.screen import Screen, shown, table
from server.watch import Progress, bar

MARGIN = "    "
EVERY = 5
"""Of so many steps of training one is told where no line is drawn twice."""

_WIDEST = 100
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"


class Telling:
    """The same story on every screen. ``missed`` are the promises that were not kept."""

    def __init__(
        self, *screens: Screen, bold: bool = False, now: Callable[[], float] = time.monotonic
    ) -> None:
        self.promises: list[tuple[bool, str]] = []
        self._screens = screens
        self._bold = bold
        self._now = now
        self._began = now()

    @property
    def missed(self) -> list[str]:
        """In the order in which they were looked at."""
        return [promise for holds, promise in self.promises if not holds]

    @property
    def seconds(self) -> float:
        """Since the story began."""
        return self._now() - self._began

    def heading(self, text: str) -> None:
        """The heading of a part."""
        for screen in self._screens:
            strong = self._bold and screen.is_terminal
            line = f"[{self.seconds:3.0f} s] {text}"
            screen.line(f"\n{_BOLD}{line}{_PLAIN}" if strong else f"\n{line}")

    def line(self, text: str = "") -> None:
        """A line of a part, wrapped where the screen is narrow."""
        begin = MARGIN + " " * (len(text) - len(text.lstrip()))
        for screen in self._screens:
            for line in _wrapped(text, _width(screen), begin):
                screen.line(line)

    def expect(self, holds: bool, promise: str) -> None:
        """Tell whether a promise was kept, and remember it."""
        self.promises.append((holds, promise))
        for screen in self._screens:
            screen.line(_kept(holds, promise))

    def side_by_side(
        self, names: Sequence[str], rows: Sequence[tuple[str, str, Sequence[str]]]
    ) -> None:
        """For each prompt and its right answer the answers under ``names``; the right ones marked.

        The first column is cut where the screen is narrow.
        """
        answers = [[_marked(each, right) for each in given] for _, right, given in rows]
        columns = list(zip(names, *answers, strict=True))
        widths = [max(map(len, column)) + 2 for column in columns]
        for screen in self._screens:
            room = _width(screen) - len(MARGIN) - 2 - sum(widths[1:])
            first = min(widths[0], max(room, 12))

            def line(cells: Sequence[str], first: int = first, screen: Screen = screen) -> None:
                begun = shown(cells[0], most=first - 2).ljust(first)
                rest = "".join(c.ljust(w) for c, w in zip(cells[1:], widths[1:], strict=True))
                screen.line(f"{MARGIN}  {begun}{rest}".rstrip())

            line(names)
            for (prompt, _, _), cells in zip(rows, answers, strict=True):
                screen.line(f"{MARGIN}{prompt}")
                line(cells)

    @contextmanager
    def counting(self, total: int, what: str) -> Iterator[Callable[[], None]]:
        """A bar that is gone afterwards; what is yielded counts one more. Nothing elsewhere."""
        done = 0
        terminals = [screen for screen in self._screens if screen.is_terminal]

        def one_more() -> None:
            nonlocal done
            done += 1
            draw()

        def draw() -> None:
            for screen in terminals:
                line = f"{MARGIN}{bar(100 * done // total)} {what}, {done} of {total}"
                screen.write("\r" + line[: _width(screen) - 1])

        draw()
        try:
            yield one_more
        finally:
            for screen in terminals:
                screen.write("\r" + " " * (_width(screen) - 1) + "\r")

    @contextmanager
    def training(self, stage: Json) -> Iterator[Callable[[Json], None]]:
        """A bar for a stage, or some of its steps as lines; what is yielded takes its events."""
        displays = [
            (Progress(_indented(screen), stage), screen.is_terminal) for screen in self._screens
        ]

        def event(each: Json) -> None:
            step = each["data"].get("step", 0)
            for display, is_terminal in displays:
                if each["kind"] == "step" and (is_terminal or step == 1 or step % EVERY == 0):
                    display.event(each)

        try:
            yield event
        finally:
            for screen in self._screens:
                if screen.is_terminal:
                    screen.write("\n")

    def last(self, title: str, shares: Sequence[Sequence[object]], end: Sequence[str]) -> None:
        """The last screen: the accuracies, every promise once more, and how it ended."""
        for screen in self._screens:
            width = _width(screen)
            strong = self._bold and screen.is_terminal
            lines = ["", "-" * width, f"{_BOLD}{title}{_PLAIN}" if strong else title, ""]
            numbers = tuple(range(1, len(shares[0]))) if shares else ()
            lines += [MARGIN + line for line in table(shares, right=numbers).splitlines()]
            lines += ["", *(_kept(*promise) for promise in self.promises), ""]
            for text in end:
                lines += _wrapped(text, width)
            screen.write("\n".join(lines) + "\n")


def standard_output() -> Screen:
    """What the tour is told on; each line is seen at once."""

    def write(text: str) -> None:
        print(text, end="", flush=True)

    return Screen(write, input, is_terminal=sys.stdout.isatty())


def transcript(file: TextIO) -> Screen:
    """A plain copy, whatever the terminal is."""

    def write(text: str) -> None:
        file.write(text)
        file.flush()

    return Screen(write, input, width=lambda: _WIDEST)


def is_bold() -> bool:
    """Whether a terminal may be told to print bold."""
    return os.environ.get("TERM", "dumb") != "dumb" and not os.environ.get("NO_COLOR")


def _wrapped(text: str, width: int, begin: str = "") -> list[str]:
    return textwrap.wrap(
        text.strip(),
        width,
        initial_indent=begin,
        subsequent_indent=begin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _kept(holds: bool, promise: str) -> str:
    return f"  {'ok ' if holds else 'NOT'} {promise}"


def _marked(answer: str, right: str) -> str:
    return f"{answer} *" if answer == right else answer


def _width(screen: Screen) -> int:
    return min(screen.width(), _WIDEST) if screen.is_terminal else _WIDEST


def _indented(screen: Screen) -> Screen:
    """``screen`` with the margin before everything that begins a line."""
    begins = True

    def write(text: str) -> None:
        nonlocal begins
        pieces = []
        for piece in re.split(r"([\r\n])", text):
            if piece and piece not in "\r\n" and begins:
                pieces.append(MARGIN)
            pieces.append(piece)
            if piece:
                begins = piece in "\r\n"
        screen.write("".join(pieces))

    return replace(screen, write=write, width=lambda: _width(screen) - len(MARGIN))
