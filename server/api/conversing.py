"""From a conversation with tools to a prompt, and to the rules for reading and forming its answer.

This is the path that every API with messages takes. It makes a ``Conversation`` of its request, has
``encoding`` make the prompts of its ``Ask`` from it, and finds in each ``Piece`` of the reply, as
``spoken``, what the model says, thinks and calls, in order; the ``End`` says ``tool_calls`` where
calls were made, and how many tokens were reasoning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from server.api.encoded import Encode, Encoded
from server.core.call_grammar import Speaking, answer_grammar, call_grammar
from server.core.call_style import CallStyle
from server.core.conversation import (
    CALL_END,
    CALL_START,
    Conversation,
    own_messages,
    template_messages,
)
from server.core.errors import InvalidRequest, UnsupportedField
from server.core.messages import Constraint
from server.core.ports import Dialect, Tokenizer
from server.core.reader import ReadingRules

OWN_STYLE = CallStyle("object", CALL_START, CALL_END)
"""How calls are written where the model's template knows no tools."""

_TAIL_TOKENS = 32
_NEVER_VARIABLES = frozenset(
    {
        "messages",
        "tools",
        "documents",
        "add_generation_prompt",
        "continue_final_message",
        "bos_token",
        "eos_token",
        "raise_exception",
        "strftime_now",
    }
)
_SWITCHES = ("enable_thinking", "thinking")


def encoding(
    conversation: Conversation,
    *,
    effort: str | None = None,
    effort_field: str = "reasoning_effort",
    answer: Constraint | None = None,
) -> Encode:
    """What makes the prompt of ``conversation``; it raises InvalidRequest with the field at fault.

    ``effort`` is how much the model may reason, and ``effort_field`` the request's field that says
    so. ``answer`` constrains an answer that is no call, as ``response_format`` does.
    """
    told = None if effort is None else (effort_field, effort)
    return partial(_encode, conversation, told, answer)


def has_effort(dialect: Dialect) -> bool:
    """Whether the template can be told how much to reason."""
    return "reasoning_effort" in dialect.variables or bool(
        dialect.variables.intersection(_SWITCHES)
    )


def _encode(
    conversation: Conversation,
    effort: tuple[str, str] | None,
    answer: Constraint | None,
    tokenizer: Tokenizer,
) -> Encoded:
    dialect = tokenizer.dialect
    free = answer is None and not _constrains_calls(conversation)
    style = _style(conversation, dialect, free=free)
    variables = _variables(conversation.variables, effort, dialect)
    if style is None:
        messages = own_messages(conversation)
    else:
        messages = template_messages(conversation.turns, short_ids=style.kind in ("list", "header"))
        if conversation.tools:
            variables["tools"] = [tool.for_template() for tool in conversation.tools]
    tokens = tokenizer.encode_chat(messages, template_kwargs=variables, ending=conversation.ending)
    think = (dialect.think_start, dialect.think_end) if dialect.think_start else None
    rules = ReadingRules(
        think=think,
        thinking=think is not None and _thinks(conversation, tokens, tokenizer),
        calls=(style or OWN_STYLE) if conversation.tools else None,
        tools=frozenset(tool.name for tool in conversation.tools),
        most_calls=conversation.most_calls,
    )
    return Encoded(tokens, rules, _constraint(conversation, rules, dialect, answer))


def _style(conversation: Conversation, dialect: Dialect, *, free: bool) -> CallStyle | None:
    """How the model's template has calls written; None for our own format.

    That is also taken where the model's format cannot be constrained and the answer is not
    ``free``.
    """
    kind = dialect.call_kind
    if kind is None or (kind == "text" and not free):
        return None
    tools = [tool.for_parser() for tool in conversation.tools]
    parse = partial(dialect.parse_calls, tools=tools)
    return CallStyle(kind, dialect.call_start, dialect.call_end, parse)


def _constrains_calls(conversation: Conversation) -> bool:
    return conversation.required or any(tool.strict for tool in conversation.tools)


def _constraint(
    conversation: Conversation, rules: ReadingRules, dialect: Dialect, answer: Constraint | None
) -> Constraint | None:
    """The grammar of the whole answer; None where ``answer``, or nothing, is all there is to it."""
    if rules.calls is None:
        if answer is None or rules.think is None:
            return None
        if not rules.thinking and not _is_part(answer):
            return None
        answered = _answer_grammar(answer, "open reasoning")
        speaking = Speaking(rules.think, rules.thinking, dialect.special, answered)
        return Constraint("lark", answer_grammar(speaking), field=answer.field)
    if answer is None and not _constrains_calls(conversation):
        return None
    within = None if answer is None else _answer_grammar(answer, "tools")
    speaking = Speaking(rules.think, rules.thinking, dialect.special, within)
    grammar = call_grammar(
        rules.calls,
        conversation.tools,
        speaking,
        required=conversation.required,
        most_calls=conversation.most_calls,
    )
    return Constraint("lark", grammar, field="tools")


def _is_part(answer: Constraint) -> bool:
    """Whether the answer's form can be a part of a grammar."""
    return answer.kind in ("json_schema", "json_object", "choice")


def _answer_grammar(answer: Constraint, beside: str) -> str:
    """``answer`` as a part of a grammar."""
    if answer.kind == "json_schema":
        return f"%json {answer.source}"
    if answer.kind == "json_object":
        return '%json {"type": "object"}'
    if answer.kind == "choice":
        return " | ".join(json.dumps(option) for option in json.loads(answer.source))
    raise InvalidRequest(
        f"{answer.field} cannot be combined with {beside}; ask without, or for a JSON schema by "
        "response_format.",
        param=answer.field,
    )


def _variables(
    given: Mapping[str, Any], effort: tuple[str, str] | None, dialect: Dialect
) -> dict[str, Any]:
    """What the template is told: each is one that it reads."""
    for name in given:
        if name in _NEVER_VARIABLES or name not in dialect.variables:
            known = ", ".join(sorted(dialect.variables - _NEVER_VARIABLES)) or "none"
            raise InvalidRequest(
                f"chat_template_kwargs.{name}: the model's chat template takes no such argument "
                f"from a request; it takes: {known}.",
                param=f"chat_template_kwargs.{name}",
            )
    variables = dict(given)
    if effort is None:
        return variables
    field, wanted = effort
    told = _effort(field, wanted, dialect)
    for name, value in told.items():
        if variables.setdefault(name, value) != value:
            raise InvalidRequest(
                f"{field} and chat_template_kwargs.{name} contradict each other; give one of them.",
                param=field,
            )
    return variables


def _effort(field: str, effort: str, dialect: Dialect) -> dict[str, Any]:
    """``effort`` in the template's words: a level, or thinking switched on or off."""
    if "reasoning_effort" in dialect.variables:
        return {"reasoning_effort": effort}
    for switch in _SWITCHES:
        if switch in dialect.variables:
            return {switch: effort != "none"}
    raise UnsupportedField(
        f"{field}: the model's chat template has no setting for reasoning; leave it out.",
        param=field,
    )


def _thinks(conversation: Conversation, tokens: Sequence[int], tokenizer: Tokenizer) -> bool:
    """Whether the prompt ends within reasoning."""
    start, end = tokenizer.dialect.think_start, tokenizer.dialect.think_end
    if conversation.ending == "continue":
        begun = conversation.turns[-1].text
        return begun.rfind(start) > begun.rfind(end)
    tail = b"".join(tokenizer.token_bytes(token) for token in tokens[-_TAIL_TOKENS:])
    return tail.rstrip().endswith(start.encode())
