"""What a model's chat template says of tools and reasoning, and that its calls are read back."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adapters.base.dialect import Dialect, read_dialect
from adapters.base.tokenizer import BaseTokenizer
from server.api.conversing import encoding
from server.core.conversation import Conversation, PastCall, Tool, Turn
from server.core.reader import Reader
from server.core.spoken import SpokenCall, speech
from tests import tool_templates
from tests.adapters.training.templates import with_template

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
WEATHER = Tool({"name": "weather", "description": "of a city", "parameters": SCHEMA})
CALL = PastCall("call_0", "weather", '{"city": "Oslo", "days": 2}')
ASK = Turn("user", "Rain?")

Make = Callable[[str | None], BaseTokenizer]


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Make:
    """The tiny tokenizer under a chat template."""
    return lambda template: with_template(tiny_model, tmp_path / "model", template)


@pytest.mark.parametrize(
    ("name", "kind", "start", "end"),
    [
        ("hermes", "object", "<tool_call>", "</tool_call>"),
        ("llama3", "bare", "<|python_tag|>", ""),
        ("mistral", "list", "[TOOL_CALLS]", ""),
        ("mistral, newer", "header", "[TOOL_CALLS]", ""),
        ("qwen coder", "text", "<tool_call>", "</tool_call>"),
    ],
)
def test_the_format_of_calls_is_told_by_the_template(
    make: Make, name: str, kind: str, start: str, end: str
) -> None:
    """A model calls as its template shows it."""
    dialect = make(tool_templates.FAMILIES[name]).dialect
    assert (dialect.call_kind, dialect.call_start, dialect.call_end) == (kind, start, end)


@pytest.mark.parametrize("name", tool_templates.FAMILIES)
def test_what_a_template_writes_of_a_call_is_read_as_that_call(make: Make, name: str) -> None:
    """Told again in the next turn, a call is what the model would write."""
    tokenizer = make(tool_templates.FAMILIES[name])
    turns = (ASK, Turn("assistant", "", calls=(CALL,)))
    asked = encoding(Conversation(turns[:1], (WEATHER,)))(tokenizer)
    told = encoding(Conversation(turns, (WEATHER,), ending="closed"))(tokenizer)
    assert list(told.tokens[: len(asked.tokens)]) == list(asked.tokens)
    written = tokenizer._decode(list(told.tokens[len(asked.tokens) :]))
    assert asked.reading is not None
    reader = Reader(asked.reading)
    spoken = speech([*reader.push(written.partition("<|im_end|>")[0]), *reader.finish()])
    assert spoken.calls == (SpokenCall(CALL.name, CALL.arguments),)
    assert spoken.text == ""


@pytest.mark.parametrize("name", tool_templates.FAMILIES)
def test_the_tool_and_its_result_reach_the_model(make: Make, name: str) -> None:
    """Through the template, with ids that it takes."""
    tokenizer = make(tool_templates.FAMILIES[name])
    turns = (ASK, Turn("assistant", "", calls=(CALL,)), Turn("tool", "dry", answers=CALL.id))
    text = tokenizer._decode(list(encoding(Conversation(turns, (WEATHER,)))(tokenizer).tokens))
    assert "of a city" in text
    assert text.index("Rain?") < text.index("Oslo") < text.index("dry")


@pytest.mark.parametrize("template", [tool_templates.UNKNOWN, None])
def test_a_template_without_a_format_of_calls_has_none(make: Make, template: str | None) -> None:
    """Then the tools are told in our own format."""
    assert make(template).dialect.call_kind is None


def test_the_embedded_model_knows_neither_tools_nor_reasoning(embedded_model: Path) -> None:
    """SmolLM2's template in the file that we ship has no tools."""
    from adapters.base.tokenizer import load_tokenizer

    dialect = load_tokenizer(embedded_model).dialect
    assert (dialect.call_kind, dialect.think_start) == (None, "")
    assert dialect.variables == {"messages", "add_generation_prompt"}


def test_our_own_format_is_read_back_as_well(embedded_model: Path) -> None:
    """On the embedded model: the tools in the system message, a result as the user's words."""
    from adapters.base.tokenizer import load_tokenizer

    tokenizer = load_tokenizer(embedded_model)
    turns = (ASK, Turn("assistant", "", calls=(CALL,)), Turn("tool", "dry", answers=CALL.id))
    asked = encoding(Conversation(turns, (WEATHER,)))(tokenizer)
    text = tokenizer._decode(list(asked.tokens))
    assert "of a city" in text.partition("<|im_end|>")[0]
    assert "<|im_start|>user\n<tool_response>\ndry\n</tool_response><|im_end|>" in text
    assert asked.reading is not None
    written = text.partition("<|im_start|>assistant\n")[2].partition("<|im_end|>")[0]
    reader = Reader(asked.reading)
    assert speech(reader.push(written)).calls == (SpokenCall(CALL.name, CALL.arguments),)


@pytest.mark.parametrize(
    ("template", "variables", "thinking"),
    [
        (tool_templates.HERMES, {}, False),
        (tool_templates.HERMES, {"enable_thinking": False}, False),
        (tool_templates.OPENS_THINKING, {}, True),
        (tool_templates.OPENS_THINKING, {"enable_thinking": False}, False),
    ],
)
def test_a_prompt_that_opens_the_reasoning_is_seen(
    make: Make, template: str, variables: dict[str, Any], thinking: bool
) -> None:
    """Else the reasoning of such models is taken for the answer."""
    rules = encoding(Conversation((ASK,), variables=variables))(make(template)).reading
    assert rules is not None
    assert (rules.think, rules.thinking) == (("<think>", "</think>"), thinking)


def test_a_user_who_writes_the_marker_opens_no_reasoning(make: Make) -> None:
    """Only the template and the assistant's own words do."""
    asked = encoding(Conversation((Turn("user", "What is <think>"),)))
    rules = asked(make(tool_templates.HERMES)).reading
    assert rules is not None
    assert not rules.thinking


@pytest.mark.parametrize(("begun", "thinking"), [("<think>Hm", True), ("<think></think>I", False)])
def test_an_unfinished_answer_is_continued(make: Make, begun: str, thinking: bool) -> None:
    """In its reasoning where it has begun some."""
    tokenizer = make(tool_templates.HERMES)
    prompt = Conversation((ASK, Turn("assistant", begun)), ending="continue")
    asked = encoding(prompt)(tokenizer)
    assert tokenizer._decode(list(asked.tokens)).endswith(f"<|im_start|>assistant\n{begun}")
    assert asked.reading is not None
    assert asked.reading.thinking == thinking


def test_the_variables_of_a_template_are_what_it_reads(make: Make) -> None:
    """Names that it sets itself are not a request's to set, and marked answers hide none."""
    template = "{% set a = b %}{% generation %}{{ a ~ c }}{% endgeneration %}{% break %}"
    assert make("{% for m in messages %}" + template + "{% endfor %}").dialect.variables == {
        "messages", "b", "c",
    }  # fmt: skip


def test_a_template_with_a_fault_says_so_when_it_is_used(make: Make) -> None:
    """A base can be served for completions all the same."""
    assert make("{% for x in %}").dialect == Dialect()


def test_a_template_for_tools_of_its_own_counts() -> None:
    """Some tokenizers have two; transformers takes the second one where there are tools."""
    wrapper = SimpleNamespace(
        chat_template={"default": "{{ messages }}", "tool_use": tool_templates.HERMES},
        tool_parser=None,
        think_start=None,
        think_end=None,
        added_tokens_decoder={},
    )
    assert read_dialect(wrapper).call_kind == "object"


def test_a_renderer_in_place_of_a_template_takes_its_parameters() -> None:
    """mlx-lm brings such functions for models without a template."""

    def renderer(messages: Any, add_generation_prompt: bool, mode: str) -> str:
        raise NotImplementedError

    wrapper = SimpleNamespace(
        chat_template=None,
        _chat_template=renderer,
        tool_parser=None,
        think_start="<think>",
        think_end="</think>",
        added_tokens_decoder={},
    )
    dialect = read_dialect(wrapper)
    assert dialect.variables == {"messages", "add_generation_prompt", "mode"}
    assert dialect.think_start == "<think>"
