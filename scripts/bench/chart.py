"""A bar chart as SVG, by hand: forty lines instead of a plotting library. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from scripts.bench.stats import Spread

_COLOURS = ("#0b6e99", "#d9822b", "#6b7280")
_BAR, _GAP, _LEFT, _WIDTH, _TOP = 16, 18, 210, 480, 56


def bar_chart(title: str, unit: str, groups: Sequence[tuple[str, Mapping[str, Spread]]]) -> str:
    """Horizontal bars: a group for each label, a bar for each name, whiskers from low to high."""
    names = list(dict.fromkeys(name for _, bars in groups for name in bars))
    largest = max((bar.high for _, bars in groups for bar in bars.values()), default=1.0) or 1.0
    scale = _WIDTH / largest
    parts = [_text(12, 22, title, size=15), _text(12, 42, unit, fill="#555")]
    x = _LEFT
    for index, name in enumerate(names):
        parts.append(_rect(x, 32, 10, 10, _COLOURS[index % len(_COLOURS)]))
        parts.append(_text(x + 16, 42, name))
        x += 140
    y = _TOP
    for label, bars in groups:
        parts.append(_text(_LEFT - 10, y + _BAR * len(bars) / 2 + 4, label, anchor="end"))
        for name, bar in bars.items():
            colour = _COLOURS[names.index(name) % len(_COLOURS)]
            parts.append(_rect(_LEFT, y, bar.median * scale, _BAR - 3, colour))
            middle = y + (_BAR - 3) / 2
            low, high = _LEFT + bar.low * scale, _LEFT + bar.high * scale
            parts.append(
                f'<path d="M{low:.1f} {middle:.1f}H{high:.1f}" stroke="#222" stroke-width="1"/>'
            )
            parts.append(_text(high + 6, y + _BAR - 5, f"{bar.median:.3g}"))
            y += _BAR
        y += _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_LEFT + _WIDTH + 80}" height="{y}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", fill: str = "#222", size: int = 12
) -> str:
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">'
        f"{escape(text)}</text>"
    )


def _rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'
    )
