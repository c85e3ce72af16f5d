"""Constraints compiled by llguidance, within limits, once each.

Nothing that a client sends reaches a template, a file or Python's regular expressions here:
schemas, patterns and grammars go to llguidance as text. Its parsers recurse, and a few kilobytes of
nested rules overflow a thread's usual stack and end the process, so that they run on a deep one.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from llguidance import LLMatcher, LLParserLimits

from server.core.errors import InvalidRequest
from server.core.json_schema import check_schema, keep_to_the_calendar, longest_pattern
from server.core.messages import Constraint
from server.core.repeats import most_written, most_written_rules

LAYOUT = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
    "lenient": False,
    "coerce_one_of": False,
}
"""JSON on one line, as Python's ``json.dumps`` lays it out. Every value can be written so, most of
the punctuation is then forced, and a small model cannot lose itself in white space."""

MOST_CHARACTERS = 65_536
"""Of a constraint of any kind."""
MOST_RULES = 8192
"""Characters of a grammar beside the JSON schemas in it."""
MOST_REGEX = 2048
"""Characters. The time that a regular expression takes grows with the square of its length."""

LIMITS = LLParserLimits(
    initial_lexer_fuel=200_000,
    step_lexer_fuel=50_000,
    step_max_items=20_000,
    max_items_in_row=1000,
    max_lexer_states=10_000,
    max_grammar_size=100_000,
    precompute_large_lexemes=False,
    verbose_errors=False,
)
"""A mask that needs more ends its row with an error."""

_MOST_CERTAIN = 50_000
"""Characters that may be certain to come. llguidance writes down all of them before each token, in
microseconds and 500 bytes for each: ``a{100000000}`` would end the process."""
_UNCERTAIN = '\n%llguidance {"no_forcing": true}\n'
"""What makes it look at one token after the other, behind a grammar that could be longer: the last
word counts, so that the grammar itself cannot take it back."""

_STACK_BYTES = 256 << 20
_STARTING = threading.Lock()
_MOST_KEPT = 64
_LONGEST_REASON = 300


class Grammar:
    """A compiled constraint. Each row takes a matcher of its own."""

    def __init__(self, matcher: Any, end_tokens: frozenset[int], field: str) -> None:
        self._matcher = matcher
        self._end_tokens = end_tokens
        self._field = field

    def matcher(self) -> Matcher:
        """At the beginning of the text; shares what was compiled, which makes it cheap."""
        return Matcher(self._matcher.deep_copy(), self._end_tokens, self._field)


class Matcher:
    """How far one row's text has come in its grammar; one thread at a time."""

    def __init__(self, matcher: Any, end_tokens: frozenset[int], field: str) -> None:
        self.native = matcher
        """What ``Masks`` computes with."""
        self.end_tokens = end_tokens
        self._field = field
        self._ended = False

    @property
    def is_whole(self) -> bool:
        """Whether the text is whole and nothing can follow it."""
        return self._ended or (self.native.is_stopped() and not self.native.is_error())

    def take(self, token: int) -> None:
        """The row has drawn ``token``; see ``failure`` for what that did."""
        if token in self.end_tokens:
            self._ended = True
        else:
            self.native.consume_token(token)

    def take_back(self, count: int) -> None:
        """Forget the last ``count`` tokens; none of them an end token."""
        self.native.rollback(count)

    def forced(self) -> list[int]:
        """The tokens that must come next, whatever the model thinks; mostly none."""
        return [] if self._ended else list(self.native.compute_ff_tokens())

    def failure(self) -> InvalidRequest | None:
        """Why the text cannot go on, where it cannot."""
        if not self.native.is_error():
            return None
        return _refusal(self._field, self.native.get_error())


class Grammars:
    """Compiles constraints for one tokenizer and keeps the latest. Any thread.

    ``tokens`` makes llguidance's view of the tokenizer; it takes a second for a large vocabulary
    and is called when the first constraint comes.
    """

    def __init__(self, tokens: Callable[[], Any]) -> None:
        self._make_tokens = tokens
        self._made: Any = None
        self._lock = threading.Lock()
        self._kept: OrderedDict[Constraint, Future[Grammar]] = OrderedDict()

    def grammar(self, constraint: Constraint) -> Grammar:
        """``constraint``, compiled now or before; two callers at once compile once.

        Raises InvalidRequest with the reason, or the limit, that refuses it.
        """
        with self._lock:
            found = self._kept.get(constraint)
            if found is None:
                mine: Future[Grammar] = Future()
                self._kept[constraint] = mine
                if len(self._kept) > _MOST_KEPT:
                    self._kept.popitem(last=False)
            else:
                self._kept.move_to_end(constraint)
        if found is not None:
            return found.result()
        try:
            grammar = _on_a_deep_stack(lambda: self._compile(constraint))
        except BaseException as error:
            with self._lock:
                self._kept.pop(constraint, None)
            mine.set_exception(error)
            raise
        mine.set_result(grammar)
        return grammar

    def _compile(self, constraint: Constraint) -> Grammar:
        field = constraint.field
        source = _source(constraint)
        with self._lock:
            if self._made is None:
                try:
                    self._made = self._make_tokens()
                except ValueError as error:
                    raise InvalidRequest(
                        f"{field}: this model's text cannot be constrained: {error}.", param=field
                    ) from error
            tokens = self._made
        matcher = LLMatcher(tokens, source, log_level=0, limits=LIMITS)
        # The first mask is where a grammar that is too large shows it.
        trial = matcher.deep_copy()
        for each in (matcher, trial):
            if each.is_error():
                raise _refusal(field, each.get_error())
            trial.compute_bitmask()
        if trial.is_error():
            raise _refusal(field, trial.get_error())
        if trial.is_stopped() and not trial.is_accepting():
            raise InvalidRequest(f"{field}: no text satisfies it.", param=field)
        return Grammar(matcher, frozenset(tokens.eos_tokens), field)


def _source(constraint: Constraint) -> str:
    """What llguidance reads, checked as far as it can be without compiling."""
    field, source = constraint.field, constraint.source
    _check_length(len(source), MOST_CHARACTERS, field, "it")
    match constraint.kind:
        case "json_object":
            return _json('{"type": "object"}')
        case "json_schema":
            schema = json.loads(source)
            check_schema(schema, field)
            long = longest_pattern(schema, field) > _MOST_CERTAIN
            keep_to_the_calendar(schema, field)
            if long:
                return f"start: %json {json.dumps({**schema, 'x-guidance': LAYOUT})}{_UNCERTAIN}"
            return _json(json.dumps(schema))
        case "regex":
            _check_length(len(source), MOST_REGEX, field, "a regular expression")
            grammar = str(LLMatcher.grammar_from_regex(source))
            if most_written(source) > _MOST_CERTAIN:
                return str(json.loads(grammar)["grammars"][0]["lark_grammar"]) + _UNCERTAIN
            return grammar
        case "choice":
            options = (json.dumps(option) for option in json.loads(source))
            return "start: " + " | ".join(options)
        case "lark":
            return _lark(source, field)


def _json(schema: str) -> str:
    overrides: Any = LAYOUT
    return str(LLMatcher.grammar_from_json_schema(schema, overrides=overrides))


def _lark(source: str, field: str) -> str:
    """A grammar whose JSON schemas are checked, and laid out, as any other."""
    first, *rest = source.split("%json")
    parts, rules, longest = [first], [first], 0
    for before, text in zip(source.split("%json"), rest, strict=False):
        schema, length = _leading_json(text, field)
        if schema is None or before.rpartition("\n")[2].count('"') % 2:
            # llguidance says what is wrong with it, or it stands in a string.
            parts.append(f"%json{text}")
            rules.append(text)
            continue
        layout = schema.pop("x-guidance", LAYOUT)
        check_schema(schema, field)
        longest = max(longest, longest_pattern(schema, field))
        keep_to_the_calendar(schema, field)
        parts.append(f"%json {json.dumps({**schema, 'x-guidance': layout})}{text[length:]}")
        rules.append(text[length:])
    _check_length(sum(map(len, rules)), MOST_RULES, field, "a grammar's rules")
    if max(longest, most_written_rules("".join(rules))) > _MOST_CERTAIN:
        parts.append(_UNCERTAIN)
    return "".join(parts)


def _leading_json(text: str, field: str) -> tuple[dict[str, Any] | None, int]:
    """The object that ``text`` begins with, and where it ends."""
    blank = len(text) - len(text.lstrip(" \t\r\n"))
    try:
        value, end = json.JSONDecoder().raw_decode(text, blank)
    except ValueError:
        return None, 0
    except RecursionError:
        raise InvalidRequest(f"{field}: a schema is nested too deeply.", param=field) from None
    return (value, end) if isinstance(value, dict) else (None, 0)


def _check_length(length: int, most: int, field: str, what: str) -> None:
    if length > most:
        raise InvalidRequest(
            f"{field}: {what} may have at most {most} characters, not {length}.", param=field
        )


def _refusal(field: str, reason: str) -> InvalidRequest:
    """llguidance's words on one line, without its state."""
    words = " ".join(reason.partition("<")[0].split()) or "it cannot be followed"
    if words == "NoExtensionBias":
        words = "no text satisfies it; does a rule or $ref need itself without end?"
    if len(words) > _LONGEST_REASON:
        words = f"{words[:_LONGEST_REASON]} …"
    return InvalidRequest(f"{field}: {words}", param=field)


def _on_a_deep_stack(work: Callable[[], Grammar]) -> Grammar:
    """What ``work`` gives, run on a thread whose stack holds the deepest source that is let in."""
    done: Future[Grammar] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:  # noqa: BLE001  # whoever waits raises it
            done.set_exception(error)

    with _STARTING:
        usual = threading.stack_size(_STACK_BYTES)
        try:
            threading.Thread(target=run, name="grammar", daemon=True).start()
        finally:
            threading.stack_size(usual)
    return done.result()
