"""Lines over a number that doubles, as SVG, by hand. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from scripts.bench.lines import Line
from scripts.bench.svg import COLOURS, document, path, text

_LEFT, _TOP, _WIDTH, _HEIGHT, _STEP = 70, 60, 340, 220, 460


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: what its two axes say, and its lines by name."""

    across: str
    up: str
    lines: Mapping[str, Line]


def line_chart(title: str, panels: tuple[Panel, ...]) -> str:
    """Panels side by side; in each a point for each median, a whisker from low to high.

    Numbers across are on a logarithmic scale, those up start at 0. Panels share the legend, so a
    name has the same colour in each.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.lines))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}
    parts = [text(12, 22, title, size=15)]
    for index, panel in enumerate(panels):
        parts += _panel(panel, _LEFT + index * _STEP, colours)
    y = _TOP + _HEIGHT + 50
    for name in names:
        parts.append(path(f"M12 {y - 4}h18", colours[name], width=2))
        parts.append(text(36, y, name))
        y += 18
    return document(max(len(panels), 1) * _STEP + 20, y, parts)


def _panel(panel: Panel, left: float, colours: Mapping[str, str]) -> list[str]:
    points = [point for line in panel.lines.values() for point in line]
    numbers = sorted({number for number, _ in points})
    top = max((value.high for _, value in points), default=1.0) or 1.0
    first, last = (numbers[0], numbers[-1]) if numbers else (1, 1)
    octaves = math.log2(last / first) or 1.0

    def x(number: int) -> float:
        return left + _WIDTH * math.log2(number / first) / octaves

    def y(value: float) -> float:
        return _TOP + _HEIGHT * (1 - value / top)

    bottom = _TOP + _HEIGHT
    parts = [text(left - 50, _TOP - 14, panel.up, fill="#555")]
    parts.append(text(left + _WIDTH / 2, bottom + 34, panel.across, anchor="middle", fill="#555"))
    parts.append(path(f"M{left} {_TOP}V{bottom}H{left + _WIDTH}", "#222"))
    parts += [text(x(number), bottom + 16, str(number), anchor="middle") for number in numbers]
    for quarter in range(5):
        mark = top * quarter / 4
        parts.append(text(left - 6, y(mark) + 4, f"{mark:.3g}", anchor="end"))
    for name, line in panel.lines.items():
        at = [(x(number), y(value.median)) for number, value in line]
        joined = "L".join(f"{across:.1f} {up:.1f}" for across, up in at)
        parts.append(path(f"M{joined}", colours[name], width=2))
        for number, value in line:
            parts.append(
                path(f"M{x(number):.1f} {y(value.low):.1f}V{y(value.high):.1f}", colours[name])
            )
    return parts
