"""What the commands know of the terminal: ``server.cli`` makes it, tests make their own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass


def terminal_width() -> int:
    """Columns of the terminal."""
    return shutil.get_terminal_size().columns


@dataclass(frozen=True, slots=True)
class Screen:
    """``write`` takes pieces of text, ``ask`` a question and gives the line that is typed.

    Without ``is_terminal`` nobody is there to ask and no line is drawn twice.
    """

    write: Callable[[str], None]
    ask: Callable[[str], str]
    is_terminal: bool = False
    width: Callable[[], int] = terminal_width
    sleep: Callable[[float], None] = time.sleep

    def line(self, text: str) -> None:
        """A whole line."""
        self.write(text + "\n")


def shown(value: object, *, most: int = 500) -> str:
    """``value`` on one line, without what would steer a terminal; cut where it is long."""
    text = "".join(
        character if character.isprintable() else " " for character in " ".join(str(value).split())
    )
    return text if len(text) <= most else text[: most - 3] + "..."


def table(rows: Sequence[Sequence[object]], *, right: Sequence[int] = ()) -> str:
    """``rows`` in columns two spaces apart; those in ``right`` are flush right. None is empty."""
    cells = [["" if cell is None else shown(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        padded = [
            cell.rjust(width) if index in right else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(padded).rstrip() + "\n")
    return "".join(lines)


def clock(seconds: float | None) -> str:
    """A length of time for people: ``7 s``, ``3 min``, ``2 h 5 min``; empty where unknown."""
    if seconds is None:
        return ""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def moment(at: float | None) -> str:
    """A time of day for people, in their own zone; empty where there is none."""
    return "" if at is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(at))


def figure(value: object) -> str:
    """A number as short as it can be read: ``1.2346``; empty where there is none."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "" if value is None else shown(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
