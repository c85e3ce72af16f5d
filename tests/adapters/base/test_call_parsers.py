"""mlx-lm's parsers of calls, which read what our own reader leaves to them."""

from __future__ import annotations

from typing import Any

import pytest
from mlx_lm.tool_parsers import (
    function_gemma,
    gemma4,
    glm47,
    kimi_k2,
    kimi_k3,
    longcat,
    minicpm5,
    minimax_m2,
    muse_spark,
    pythonic,
    qwen3_coder,
)

from adapters.base.dialect import Dialect

FIELDS = {"city": {"type": "string"}, "days": {"type": "integer"}}
PARAMETERS = {"type": "object", "properties": FIELDS}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": PARAMETERS}}]
XTML = (
    '<|open|>call tool="weather" index="1"<|sep|><|open|>argument key="city" type="string"<|sep|>'
    'Oslo<|close|>argument<|sep|><|open|>argument key="days" type="number"<|sep|>2'
    "<|close|>argument<|sep|><|close|>call<|sep|>"
)


@pytest.mark.parametrize(
    ("parser", "text"),
    [
        (function_gemma, "call:weather{city:<escape>Oslo<escape>,days:2}"),
        (gemma4, 'call:weather{city:<|"|>Oslo<|"|>,days:2}'),
        (glm47, ("weather\n<arg_key>city</arg_key>\n<arg_value>Oslo</arg_value>\n"
                "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n")),
        (kimi_k2, ("<|tool_call_begin|>functions.weather:0<|tool_call_argument_begin|>"
                  '{"city": "Oslo", "days": 2}<|tool_call_end|>')),
        (kimi_k3, XTML),
        (longcat, ("weather\n<longcat_arg_key>city</longcat_arg_key>\n"
                  "<longcat_arg_value>Oslo</longcat_arg_value>\n"
                  "<longcat_arg_key>days</longcat_arg_key>\n"
                  "<longcat_arg_value>2</longcat_arg_value>")),
        (minicpm5, '"weather"><param name="city">Oslo</param><param name="days">2</param>'),
        (minimax_m2, ('<invoke name="weather"><parameter name="city">Oslo</parameter>'
                     '<parameter name="days">2</parameter></invoke>')),
        (muse_spark, ('<atem:invoke name="weather"><atem:parameter name="city">"Oslo"'
                     '</atem:parameter><atem:parameter name="days">2</atem:parameter>'
                     "</atem:invoke>")),
        (pythonic, '[weather(city="Oslo", days=2)]'),
        (qwen3_coder, ("<function=weather>\n<parameter=city>\nOslo\n</parameter>\n"
                      "<parameter=days>\n2\n</parameter>\n</function>")),
    ],
    ids=lambda value: getattr(value, "__name__", "").rpartition(".")[2] or None,
)  # fmt: skip
def test_every_parser_of_mlx_lm_gives_arguments_as_json(parser: Any, text: str) -> None:
    """Formats that are read when the call is whole."""
    dialect = Dialect(call_kind="text", parser=parser.parse_tool_call)
    assert dialect.parse_calls(text, TOOLS) == (("weather", '{"city": "Oslo", "days": 2}'),)


@pytest.mark.parametrize("result", [{"name": "f"}, {"name": 1, "arguments": {}}, 7, None,
                                    {"name": "f", "arguments": "[1]"},
                                    {"name": "f", "arguments": {"a": {1}}}])  # fmt: skip
def test_what_a_parser_makes_of_no_call_is_no_call(result: Any) -> None:
    """Parsers raise what they like, or give what is no JSON."""
    dialect = Dialect(call_kind="text", parser=lambda _text, _tools: result)
    with pytest.raises(ValueError, match="no call can be read"):
        dialect.parse_calls("x", TOOLS)
    with pytest.raises(ValueError, match="no parser"):
        Dialect().parse_calls("x", TOOLS)
