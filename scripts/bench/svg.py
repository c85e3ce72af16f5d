"""What charts are made of, as SVG, by hand: a few lines instead of a plotting library. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

COLOURS = ("#0b6e99", "#d9822b", "#6b7280", "#2e7d32", "#a23b72", "#8d6e00", "#5b4bb5", "#b23a2e")


def document(width: float, height: float, parts: Iterable[str]) -> str:
    """A whole file: the parts on white."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="#fff"/>'
        + "".join(parts)
        + "</svg>\n"
    )


def text(
    x: float, y: float, words: str, *, anchor: str = "start", fill: str = "#222", size: int = 12
) -> str:
    """Words with their baseline at ``y``; they are escaped."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{fill}" font-size="{size}">'
        f"{escape(words)}</text>"
    )


def rect(x: float, y: float, width: float, height: float, fill: str) -> str:
    """A filled rectangle."""
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{fill}"/>'
    )


def path(commands: str, colour: str, *, width: float = 1) -> str:
    """A line without filling."""
    return f'<path d="{commands}" fill="none" stroke="{colour}" stroke-width="{width}"/>'
