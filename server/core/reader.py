"""A model's text, in whatever pieces it arrives, as what it says."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from server.core.call_style import CallStyle
from server.core.calls import Calls, NotACall
from server.core.spoken import Said, Spoken, Thought, merged


@dataclass(frozen=True, slots=True)
class ReadingRules:
    """What to look for in a text.

    ``think`` are the markers around reasoning, and ``thinking`` tells that the prompt has opened it
    already. Calls are read in ``calls`` style if they name one of ``tools``; after ``most_calls``
    of them the text is over.
    """

    think: tuple[str, str] | None = None
    thinking: bool = False
    calls: CallStyle | None = None
    tools: frozenset[str] = frozenset()
    most_calls: int | None = None


class Reader:
    """Tells words, thoughts and calls apart; the same events, but for joins, for any pieces.

    Nothing is lost: what looks like a call and is none, or names no tool of the request, is said as
    it stands. A call counts from where its arguments begin, and what was cut off after that is an
    unfinished call. White space between reasoning, words and calls belongs to none of them; where
    there is neither reasoning nor a call, every character is said. Reasoning is read only before
    the first word.
    """

    def __init__(self, rules: ReadingRules) -> None:
        self._rules = rules
        self._calls = Calls(rules.tools, rules.most_calls)
        self._attempt: _Attempt | None = None
        self._buffer = ""
        self._read = 0
        self._thinking = self._may_reopen = rules.thinking
        self._spans: list[list[int]] = [[0]] if rules.thinking else []
        self._gap = ""
        self._interrupted = rules.thinking
        self._said = self._thought = False
        self._fresh = True
        self._events: list[Spoken] = []

    @property
    def done(self) -> bool:
        """Whether the last call that is wanted is complete; further text means nothing."""
        return self._calls.full

    @property
    def thinks(self) -> bool:
        """Whether the text is read for reasoning."""
        return self._rules.think is not None

    @property
    def calls(self) -> int:
        """How many calls have begun."""
        return self._calls.begun

    def is_thought(self, offset: int) -> bool:
        """Whether the character at ``offset`` of the text is reasoning, or a marker around it."""
        return any(
            span[0] <= offset and (len(span) == 1 or offset < span[1]) for span in self._spans
        )

    def push(self, text: str) -> tuple[Spoken, ...]:
        """What ``text`` makes certain."""
        return self._advance(text, final=False)

    def finish(self) -> tuple[Spoken, ...]:
        """What is left when no text follows."""
        return self._advance("", final=True)

    def _advance(self, text: str, *, final: bool) -> tuple[Spoken, ...]:
        if self._rules.think is None and self._rules.calls is None:
            return (Said(text),) if text else ()
        self._buffer += text
        self._read += len(text)
        while not self.done and self._step(final=final):
            pass
        if self.done:
            self._buffer = self._gap = ""
        if final and not self._interrupted and self._gap:
            self._events.append(Said(self._gap))
            self._gap = ""
        events, self._events = self._events, []
        return merged(events)

    def _step(self, *, final: bool) -> bool:
        """Read on in the present state; whether it has changed."""
        if self._attempt is not None:
            return self._call(self._attempt, final=final)
        return self._think(final=final) if self._thinking else self._words(final=final)

    def _words(self, *, final: bool) -> bool:
        bare = self._bare()
        if bare is None:
            return False
        style = self._rules.calls
        if bare and style is not None:
            self._attempt = _Attempt("", style, self._calls)
            return True
        found = [(at, marker) for marker in self._markers() if (at := self._find(marker)) >= 0]
        if not found:
            self._say(self._cut(self._markers(), final=final))
            return False
        at, marker = min(found)
        self._say(self._buffer[:at])
        self._buffer = self._buffer[at + len(marker) :]
        if style is None or marker != style.start:
            self._spans.append([self._read - len(self._buffer) - len(marker)])
            self._thinking = self._interrupted = self._fresh = True
            self._gap = ""
        else:
            self._attempt = _Attempt(marker, style, self._calls)
        return True

    def _bare(self) -> bool | None:
        """Whether a call without a marker begins here; None where that is not known yet."""
        style = self._rules.calls
        if style is None or style.kind != "bare" or self._said or self._calls.begun:
            return False
        stripped = self._buffer.lstrip()
        self._gap += self._buffer[: len(self._buffer) - len(stripped)]
        self._buffer = stripped
        return stripped[0] == "{" if stripped else None

    def _markers(self) -> Iterator[str]:
        if self._rules.calls is not None and self._rules.calls.start:
            yield self._rules.calls.start
        if self._rules.think is not None and not self._said:
            yield self._rules.think[0]

    def _find(self, marker: str) -> int:
        at = self._buffer.find(marker)
        opens_thought = self._rules.think is not None and marker == self._rules.think[0]
        return -1 if opens_thought and self._buffer[: max(at, 0)].strip() else at

    def _think(self, *, final: bool) -> bool:
        start, end = self._rules.think or ("", "")
        if self._may_reopen:
            # Some models open once more what the prompt has opened.
            stripped = self._buffer.lstrip()
            if stripped.startswith(start):
                self._buffer = stripped[len(start) :]
            elif start.startswith(stripped) and not final:
                return False
            self._may_reopen = False
        at = self._buffer.find(end)
        if at < 0:
            self._reason(self._cut((end,), final=final))
            return False
        self._reason(self._buffer[:at])
        self._buffer = self._buffer[at + len(end) :]
        self._spans[-1].append(self._read - len(self._buffer))
        self._thinking, self._gap = False, ""
        return True

    def _call(self, attempt: _Attempt, *, final: bool) -> bool:
        for index, character in enumerate(self._buffer):
            attempt.feed(character)
            if attempt.over or self._calls.full:
                self._buffer = self._buffer[index + 1 :]
                break
        else:
            self._buffer = ""
            if final:
                attempt.feed("")
                attempt.over = True
        if attempt.committed:
            self._interrupted = True
        self._events += self._calls.take()
        if not attempt.over:
            return False
        if not attempt.committed:
            self._say(attempt.start)
        self._buffer = "".join(attempt.unread) + self._buffer
        self._attempt = None
        # Text that was no call without a marker begins no other one: it has been said.
        if not attempt.committed and not attempt.start:
            self._say(self._buffer[:1])
            self._buffer = self._buffer[1:]
        return True

    def _cut(self, markers: Iterator[str] | tuple[str, ...], *, final: bool) -> str:
        """Take what can no longer become a marker off the buffer."""
        keep = len(self._buffer)
        if not final:
            longest = [_overlap(self._buffer, marker) for marker in markers]
            keep -= max(longest, default=0)
        text, self._buffer = self._buffer[:keep], self._buffer[keep:]
        return text

    def _say(self, text: str) -> None:
        text = self._gap + text
        words = text.strip()
        if not words:
            self._gap = text
            return
        if self._interrupted and not self._said:
            text = text.lstrip()
        kept = text.rstrip()
        self._events.append(Said(kept))
        self._gap = text[len(kept) :]
        self._said, self._interrupted = True, False

    def _reason(self, text: str) -> None:
        text = self._gap + text
        if not text.strip():
            self._gap = text
            return
        if self._fresh:
            text = ("\n" if self._thought else "") + text.lstrip()
        kept = text.rstrip()
        self._events.append(Thought(kept))
        self._gap = text[len(kept) :]
        self._thought, self._fresh = True, False


class _Attempt:
    """Reads what may be a call, and remembers what it has not reported."""

    def __init__(self, start: str, style: CallStyle, calls: Calls) -> None:
        self.start, self._calls = start, calls
        self._program = style.program(calls)
        next(self._program)
        self.unread: list[str] = []
        self.committed = self.over = False

    def feed(self, character: str) -> None:
        """Read on; ``over`` tells that the calls, or what looked like them, have ended."""
        reported = self._calls.reported
        self.unread.append(character)
        try:
            self._program.send(character)
        except NotACall:
            self.over = True
        except StopIteration:
            self.over = True
            self.unread.clear()
        if self._calls.reported != reported:
            self.committed = True
            self.unread.clear()


def _overlap(text: str, marker: str) -> int:
    """The length of the longest end of ``text`` that begins ``marker`` and is not all of it."""
    for length in range(min(len(text), len(marker) - 1), 0, -1):
        if text.endswith(marker[:length]):
            return length
    return 0
