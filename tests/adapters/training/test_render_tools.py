"""Tools and calls of a row: they reach the chat template, or the row is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapters.base.tokenizer import BaseTokenizer, load_tokenizer
from adapters.training.batches import Example
from adapters.training.jsonl import BadLine
from adapters.training.render import Renderer
from adapters.training.rows import ChatRow
from tests.adapters.training import templates

TOOL = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}

Make = Callable[[str | None], BaseTokenizer]


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Make:
    """The tiny tokenizer under a chat template."""
    return lambda template: templates.with_template(tiny_model, tmp_path / "model", template)


def render(tokenizer: BaseTokenizer, row: ChatRow) -> Example:
    """The row's one example."""
    (example,) = Renderer(tokenizer, max_seq_length=4096).render(row)
    return example


def tool_row() -> ChatRow:
    """A question, a call, its result and an answer."""
    function = {"name": "weather", "arguments": {"town": "Oslo"}}
    messages: tuple[dict[str, Any], ...] = (
        {"role": "user", "content": "Rain?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": function}],
        },
        {"role": "tool", "content": "dry"},
        {"role": "assistant", "content": "No rain."},
    )
    return ChatRow(3, messages, (False, True, False, True), (TOOL,))


def test_calls_and_tools_reach_the_template(make: Make) -> None:
    """The call is learned; the tools and the result are seen."""
    tokenizer = make(templates.TOOLS)
    example = render(tokenizer, tool_row())
    pairs = zip(example.tokens, example.mask, strict=True)
    learned = tokenizer._decode([token for token, is_learned in pairs if is_learned])
    assert learned == '<call>weather{"town": "Oslo"}</call><|im_end|>No rain.<|im_end|>'
    prompt = tokenizer.encode_chat(tool_row().messages[:1], template_kwargs={"tools": [TOOL]})
    assert list(example.tokens[: len(prompt)]) == prompt


def test_tools_that_a_template_leaves_out_are_refused(make: Make) -> None:
    """Nothing of a row is accepted and ignored."""
    row = tool_row()
    with pytest.raises(BadLine, match="has tools, which the base's chat template leaves out"):
        render(make(templates.PLAIN), row)


def test_calls_that_a_template_leaves_out_are_refused(tiny_model: Path) -> None:
    """Else an empty answer would be learned in their place."""
    row = tool_row()
    bare = ChatRow(3, row.messages, row.learned)
    with pytest.raises(BadLine, match=r"messages\[1\] has tool_calls, which"):
        render(load_tokenizer(tiny_model), bare)
