"""A bar chart as SVG. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from scripts.bench.stats import Spread
from scripts.bench.svg import COLOURS, document, path, rect, text

_BAR, _GAP, _LEFT, _WIDTH, _TOP = 16, 18, 250, 480, 56


def bar_chart(title: str, unit: str, groups: Sequence[tuple[str, Mapping[str, Spread]]]) -> str:
    """Horizontal bars: a group for each label, a bar for each name, whiskers from low to high."""
    names = list(dict.fromkeys(name for _, bars in groups for name in bars))
    largest = max((bar.high for _, bars in groups for bar in bars.values()), default=1.0) or 1.0
    scale = _WIDTH / largest
    parts = [text(12, 22, title, size=15), text(12, 42, unit, fill="#555")]
    x = _LEFT
    for index, name in enumerate(names):
        parts.append(rect(x, 32, 10, 10, COLOURS[index % len(COLOURS)]))
        parts.append(text(x + 16, 42, name))
        x += 140
    y = _TOP
    for label, bars in groups:
        parts.append(text(_LEFT - 10, y + _BAR * len(bars) / 2 + 4, label, anchor="end"))
        for name, bar in bars.items():
            colour = COLOURS[names.index(name) % len(COLOURS)]
            parts.append(rect(_LEFT, y, bar.median * scale, _BAR - 3, colour))
            middle = y + (_BAR - 3) / 2
            low, high = _LEFT + bar.low * scale, _LEFT + bar.high * scale
            parts.append(path(f"M{low:.1f} {middle:.1f}H{high:.1f}", "#222"))
            parts.append(text(high + 6, y + _BAR - 5, f"{bar.median:.3g}"))
            y += _BAR
        y += _GAP
    return document(_LEFT + _WIDTH + 80, y, parts)
