"""Rows of training data to the tokens that serving would see, and which of them are learned.

What an answer is learned after is the prompt that serving makes of the messages before it, token
for token; what is learned is what the model must then produce, up to the token at which serving
stops. A row for which this cannot be had is refused, never trained on something like it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from adapters.errors import ChatTemplateError
from adapters.ports import Tokenizer
from adapters.training.batches import Example
from adapters.training.jsonl import BadLine
from adapters.training.rows import ChatRow, Row, TextRow

Messages = Sequence[Mapping[str, Any]]


class Renderer:
    """Makes examples of rows by one tokenizer. Used by one thread at a time."""

    def __init__(self, tokenizer: Tokenizer, *, max_seq_length: int) -> None:
        self._tokenizer = tokenizer
        self._most = max_seq_length
        self._ends = tokenizer.end_tokens | {tokenizer.end_token}
        # A tokenizer makes a new int object for every token; rows share one for each id.
        self._shared: dict[int, int] = {}

    def render(self, row: Row) -> tuple[Example, ...]:
        """The row's examples, at least one; each has something to learn.

        A chat row is one example, with all the answers that are learned. Only where the template
        writes an earlier answer otherwise than the last one (without its reasoning, say) there is
        one for each answer, since no single text is what serving would have seen.
        Nothing is cut off: raises BadLine with the reason where a row cannot be used as it is.
        """
        return (self._text(row),) if isinstance(row, TextRow) else self._chat(row)

    def _text(self, row: TextRow) -> Example:
        """Every token but the first is learned, and the end of the text after them."""
        tokens = self._tokenizer.encode(row.text)
        if not tokens or tokens[-1] not in self._ends:
            tokens.append(self._tokenizer.end_token)
        if len(tokens) < 2:
            raise BadLine("the text has no token to learn")
        return self._example(row, tokens, [range(1, len(tokens))])

    def _chat(self, row: ChatRow) -> tuple[Example, ...]:
        """One example, or one for each answer, as ``render`` says."""
        places = [index for index, learned in enumerate(row.learned) if learned]
        # What follows the last answer that is learned is no one's prompt.
        whole = self._apply(row, places[-1] + 1)
        # Before anything else is rendered: a row of many turns is rendered many times.
        self._check_length(len(whole))
        if row.tools is not None or any("tool_calls" in message for message in row.messages):
            self._check_tools_shown(row, places[-1] + 1, whole)
        turns = [
            self._answer(row, index, whole if index == places[-1] else self._apply(row, index + 1))
            for index in places
        ]
        if all(whole[: len(prompt) + len(answer)] == prompt + answer for prompt, answer in turns):
            spans = [range(len(prompt), len(prompt) + len(answer)) for prompt, answer in turns]
            return (self._example(row, whole[: spans[-1].stop], spans),)
        return tuple(
            self._example(row, prompt + answer, [range(len(prompt), len(prompt) + len(answer))])
            for prompt, answer in turns
        )

    def _answer(self, row: ChatRow, index: int, told: list[int]) -> tuple[list[int], list[int]]:
        """The prompt before message ``index``, and the answer to it with the token that ends it.

        ``told`` are the tokens of the messages up to and with that one.
        """
        prompt = self._apply(row, index, open_turn=True)
        if told[: len(prompt)] != prompt:
            raise BadLine(
                f"messages[{index}]: the base's chat template does not begin this answer as it "
                "opens the turn for one, so the model would learn what serving never asks for. "
                "White space at the beginning of the answer does this (take it out), and so do "
                "templates that open a turn with a reasoning mark (write the reasoning into the "
                "answer as the template expects it)"
            )
        rest = told[len(prompt) :]
        ends = [place for place, token in enumerate(rest) if token in self._ends]
        if not ends:
            raise BadLine(
                f"messages[{index}]: the base's chat template ends the answer with none of the "
                "tokens at which serving stops, so the model would never learn to stop"
            )
        # More than one in a row is a template that ends the turn and the text.
        if ends[0] == 0 or ends[-1] - ends[0] >= len(ends):
            raise BadLine(
                f"messages[{index}]: the answer is empty to the base's chat template, or holds a "
                "token at which serving stops before its end: take that text out"
            )
        return prompt, rest[: ends[0] + 1]

    def _check_tools_shown(self, row: ChatRow, count: int, whole: list[int]) -> None:
        """Refuse tools and tool calls that the template leaves out."""
        if row.tools is not None:
            bare = ChatRow(row.line, row.messages, row.learned)
            if self._apply(bare, count) == whole:
                raise BadLine("has tools, which the base's chat template leaves out")
        for index, message in enumerate(row.messages[:count]):
            if "tool_calls" not in message:
                continue
            told = self._apply(row, index + 1)
            kept = {key: value for key, value in message.items() if key != "tool_calls"}
            bare = ChatRow(row.line, (*row.messages[:index], kept), row.learned, row.tools)
            if self._apply(bare, index + 1) == told:
                raise BadLine(
                    f"messages[{index}] has tool_calls, which the base's chat template leaves out"
                )

    def _apply(self, row: ChatRow, count: int, *, open_turn: bool = False) -> list[int]:
        """The tokens of the row's first ``count`` messages."""
        try:
            return self._tokenizer.render(
                row.messages[:count], tools=row.tools, open_turn=open_turn
            )
        except ChatTemplateError as error:
            raise BadLine(str(error).removesuffix(".")) from error

    def _example(self, row: Row, tokens: list[int], spans: Iterable[range]) -> Example:
        self._check_length(len(tokens))
        mask = [False] * len(tokens)
        for span in spans:
            mask[span.start : span.stop] = [True] * len(span)
        share = self._shared.setdefault
        return Example(tuple(share(token, token) for token in tokens), tuple(mask), row.line)

    def _check_length(self, length: int) -> None:
        if length > self._most:
            raise BadLine(
                f"has {length:,} tokens and max_seq_length is {self._most:,}: shorten it, split "
                "it, or raise max_seq_length"
            )
