"""What the clients of ``scripts.soak`` ask for."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tests.acceptance.serving.process import BASE

Json = dict[str, Any]

CHAINS = ("a4", "b8", "c16", "d8")
_MODELS = (BASE, *(f"{BASE}:{name}@1" for name in CHAINS))
_MOVING = (
    f"{BASE}:grow",
    f"{BASE}:more",
    f"{BASE}:grow@2",
    f"{BASE}:more@stable",
    f"{BASE}:more@1",
)
_QUESTIONS = ("What is a rudder?", "Who waters the garden at noon?", "Why do clocks stop? " * 12)
_CHAT, _TEXT = "/v1/chat/completions", "/v1/completions"
_MESSAGES, _RESPONSES = "/v1/messages", "/v1/responses"
_SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer"}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
_WRONG: Sequence[Json] = (
    {"temperature": 7},
    {"n": 0},
    {"logit_bias": {"999999": 1}},
    {"messages": []},
    {"guided_regex": "(("},
    {"max_tokens": 5000},
    {
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "x", "schema": {"not": {}}},
        }
    },
)


@dataclass(frozen=True, slots=True)
class Ask:
    """A request. ``key`` names the answer that it must get, where there is only one.

    Any status of ``expected`` may come. The client closes a stream after ``leaves_after`` chunks.
    """

    kind: str
    path: str
    body: Json
    key: str | None = None
    expected: frozenset[int] = frozenset({200, 429})
    leaves_after: int | None = None
    is_slow: bool = False


def questions() -> Sequence[Ask]:
    """Each request whose answer is fixed, without a stream."""
    return [_fixed(m, q, s) for m in _MODELS for q in _QUESTIONS for s in (None, 7)]


def draw_ask(draw: random.Random) -> Ask:
    """Any request, streamed or not, whose reader may leave early or read slowly."""
    kind = draw.choice((_same, _same, _chat, _text, _tools, _anthropic, _response, _moving, _wrong))
    ask = kind(draw)
    streams = draw.random() < 0.5 and ask.body.get("best_of", 1) == 1
    leaves = draw.randint(0, 8) if streams and draw.random() < 0.2 else None
    body = {**ask.body, "stream": streams}
    slow = draw.random() < 0.1
    return Ask(ask.kind, ask.path, body, ask.key, ask.expected, leaves, slow)


def is_last(path: str, data: str) -> bool:
    """Whether a stream of ``path`` may end with ``data``."""
    if path in (_CHAT, _TEXT):
        return data == "[DONE]"
    kind = json.loads(data)["type"] if data.startswith("{") else ""
    ends = (
        ("message_stop", "error")
        if path == _MESSAGES
        else (
            "response.completed",
            "response.incomplete",
            "response.failed",
            "error",
        )
    )
    return kind in ends


def _talk(question: str) -> list[Json]:
    return [{"role": "user", "content": question}]


def _fixed(model: str, question: str, seed: int | None) -> Ask:
    body: Json = {"model": model, "messages": _talk(question), "max_tokens": 40}
    body |= {"logprobs": True, "top_logprobs": 5}
    body |= {"temperature": 0} if seed is None else {"temperature": 0.8, "seed": seed}
    return Ask("same", _CHAT, body, f"{model} {question} {seed}")


def _same(draw: random.Random) -> Ask:
    ask = _fixed(draw.choice(_MODELS), draw.choice(_QUESTIONS), draw.choice((None, 7)))
    return Ask("same", _CHAT, {**ask.body, "priority": draw.randint(-3, 3)}, ask.key)


def _question(draw: random.Random) -> str:
    long = draw.choice((1, 1, 1, 5, 40))
    words = draw.choices(["sail", "boat", "clock", "dough", "why", "garden", "noon", "keel"], k=3)
    return f"{draw.choice(_QUESTIONS[:2])} " * long + " ".join(words)


def _common(draw: random.Random) -> Json:
    body: Json = {"model": draw.choice(_MODELS), "priority": draw.randint(-3, 3)}
    body["max_tokens"] = draw.choice((1, 2, 8, 40, 200))
    for name, value in (
        ("temperature", draw.choice((0, 0.7, 1.5))),
        ("seed", draw.randint(0, 99)),
        ("stop", draw.choice((["e"], [" the", "."], ["zzzz"]))),
        ("frequency_penalty", draw.uniform(-1, 1)),
        ("repetition_penalty", 1.3),
        ("top_p", 0.9),
        ("top_k", draw.choice((1, 50))),
        ("min_p", 0.05),
        ("logit_bias", {str(draw.randint(3, 200)): draw.choice((-100, 5, 100))}),
    ):
        if draw.random() < 0.25:
            body[name] = value
    return body


def _constraint(draw: random.Random) -> Json:
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": _SCHEMA}}
    return draw.choice(
        (
            {},
            {},
            {"response_format": schema},
            {"response_format": {"type": "json_object"}},
            {"guided_regex": f"[a-z]{{3,{draw.randint(4, 60)}}} [0-9]+"},
            {"guided_choice": ["north", "south by west"]},
            {"guided_grammar": 'start: "a" start | "b"'},
        )
    )


def _chat(draw: random.Random) -> Ask:
    body = _common(draw) | _constraint(draw) | {"messages": _talk(_question(draw))}
    body |= draw.choice(({}, {"n": 3}, {"n": 9}, {"logprobs": True, "top_logprobs": 3}))
    return Ask("chat", _CHAT, body, expected=frozenset({200, 400, 429}))


def _text(draw: random.Random) -> Ask:
    prompt: Any = _question(draw)
    if draw.random() < 0.3:
        prompt = [prompt, _question(draw), [draw.randint(0, 200) for _ in range(5)]]
    body = _common(draw) | _constraint(draw) | {"prompt": prompt}
    body |= draw.choice(
        ({}, {"echo": True, "logprobs": 2}, {"best_of": 4, "n": 2}, {"logprobs": 1})
    )
    if body.get("echo") and draw.random() < 0.5:
        body["max_tokens"] = 0
    return Ask("text", _TEXT, body, expected=frozenset({200, 400, 429}))


def _tools(draw: random.Random) -> Ask:
    function = {"name": "look_up", "parameters": _SCHEMA, "strict": draw.random() < 0.5}
    body = _common(draw) | {"messages": _talk(_question(draw))}
    body |= {"tools": [{"type": "function", "function": function}]}
    body |= {"tool_choice": draw.choice(("auto", "required", "none"))}
    return Ask("tools", _CHAT, body, expected=frozenset({200, 400, 429}))


def _anthropic(draw: random.Random) -> Ask:
    body: Json = {"model": draw.choice(_MODELS), "messages": _talk(_question(draw))}
    body |= {"max_tokens": draw.choice((1, 30, 200))}
    if draw.random() < 0.4:
        body["tools"] = [{"name": "look_up", "input_schema": _SCHEMA}]
        body["tool_choice"] = {"type": draw.choice(("auto", "any"))}
    return Ask("messages", _MESSAGES, body, expected=frozenset({200, 400, 429}))


def _response(draw: random.Random) -> Ask:
    body: Json = {"model": draw.choice(_MODELS), "input": _question(draw)}
    body |= {"max_output_tokens": draw.choice((16, 30, 200))}
    if draw.random() < 0.3:
        body["text"] = {"format": {"type": "json_schema", "name": "x", "schema": _SCHEMA}}
    return Ask("responses", _RESPONSES, body, expected=frozenset({200, 400, 429}))


def _moving(draw: random.Random) -> Ask:
    body = _common(draw) | {"model": draw.choice(_MOVING), "messages": _talk(_question(draw))}
    return Ask("moving", _CHAT, body, expected=frozenset({200, 400, 404, 429}))


def _wrong(draw: random.Random) -> Ask:
    body = {"model": BASE, "messages": _talk("hi"), **draw.choice(_WRONG)}
    return Ask("wrong", _CHAT, body, expected=frozenset({400}))
