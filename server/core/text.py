"""Stop strings in text that arrives in pieces."""

from __future__ import annotations

from collections.abc import Sequence


class StopMatcher:
    """Lets text through up to the first stop string, and never a character of the stop itself.

    The stop string that is complete first decides; of two that are complete at the same character
    the longer one. So the result is the same however the text is cut into pieces. A suffix that
    could still become a stop string is held back until it has, or cannot any more.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        if not all(stops):
            raise ValueError("an empty stop string would stop before the first character")
        self._stops = tuple(stops)
        self._held = ""
        self.found: str | None = None
        """The stop string that was found; nothing is let through any more."""

    @property
    def hit(self) -> bool:
        """Whether a stop string was found."""
        return self.found is not None

    def push(self, piece: str) -> str:
        """The text that ``piece`` makes certain."""
        if self.hit:
            return ""
        text = self._held + piece
        first = self._first_stop(text)
        if first is not None:
            start, self.found = first
            self._held = ""
            return text[:start]
        keep = self._possible_start(text)
        self._held = text[keep:]
        return text[:keep]

    def finish(self) -> str:
        """What was held back, since no further text can complete it."""
        held, self._held = self._held, ""
        return held

    def _first_stop(self, text: str) -> tuple[int, str] | None:
        found = [
            (start + len(stop), start, stop)
            for stop in self._stops
            if (start := text.find(stop)) >= 0
        ]
        return min(found)[1:] if found else None

    def _possible_start(self, text: str) -> int:
        """Where the longest suffix begins that begins a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for start in range(max(0, len(text) - longest), len(text)):
            suffix = text[start:]
            if any(stop.startswith(suffix) for stop in self._stops):
                return start
        return len(text)
