"""Chat templates with tools, in our own words, each in the call format of a family of models."""

from __future__ import annotations

_TURN = "{{ '<|im_start|>' ~ message.role ~ '\\n' }}"
_END = "{{ '<|im_end|>\\n' }}"

HERMES = (
    """\
{%- if tools -%}
{{ '<|im_start|>system\\n<tools>' }}
{%- for tool in tools -%}{{ '\\n' ~ (tool | tojson) }}{%- endfor -%}
{{ '\\n</tools><|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message.role == 'tool' -%}
{{ '<|im_start|>user\\n<tool_response>\\n' ~ message.content ~ '\\n</tool_response>' }}
{%- else -%}"""
    + _TURN
    + """
{%- if message.reasoning_content -%}
{{ '<think>\\n' ~ message.reasoning_content ~ '\\n</think>\\n\\n' }}
{%- endif -%}
{{ message.content }}
{%- for tool_call in message.tool_calls or [] -%}
{{ '\\n<tool_call>\\n{"name": "' ~ tool_call.function.name ~ '", "arguments": ' }}
{{- (tool_call.function.arguments | tojson) ~ '}\\n</tool_call>' }}
{%- set _ = tool_call.name -%}
{%- endfor -%}
{%- endif -%}"""
    + _END
    + """
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false -%}
{{ '<think>\\n\\n</think>\\n\\n' }}
{%- endif -%}
{%- endif -%}
"""
)
"""As Qwen 3: reasoning, which can be switched off, and calls between markers."""

OPENS_THINKING = HERMES.replace(
    "{{ '<|im_start|>assistant\\n' }}", "{{ '<|im_start|>assistant\\n<think>\\n' }}"
)
"""As DeepSeek R1: the prompt opens the reasoning."""

LLAMA3 = (
    """\
{%- if not tools is defined -%}{%- set tools = none -%}{%- endif -%}
{%- if tools is not none -%}
{{ 'Answer {"name": function name, "parameters": {…}}.\\n' }}
{%- for tool in tools -%}{{ tool | tojson }}{%- endfor -%}
{%- endif -%}
{%- for message in messages -%}"""
    + _TURN
    + """
{%- if message.tool_calls -%}
{%- set call = message.tool_calls[0].function -%}
{{ '{"name": "' ~ call.name ~ '", "parameters": ' ~ (call.arguments | tojson) ~ '}' }}
{%- else -%}{{ message.content }}{%- endif -%}"""
    + _END
    + """
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
)
"""As Llama 3: a call is the whole answer."""

_MISTRAL = """\
{%- if tools -%}{{ '[AVAILABLE_TOOLS]' ~ (tools | tojson) ~ '[/AVAILABLE_TOOLS]' }}{%- endif -%}
{%- for message in messages -%}
{%- if message.tool_calls -%}
THE_CALLS
{%- elif message.role == 'tool' -%}
{{ '[TOOL_RESULTS]' ~ message.content ~ message.tool_call_id ~ '[/TOOL_RESULTS]' }}
{%- elif message.role == 'assistant' -%}{{ message.content ~ '<|im_end|>' }}
{%- else -%}{{ '[INST]' ~ message.content ~ '[/INST]' }}{%- endif -%}
{%- endfor -%}
"""

MISTRAL = _MISTRAL.replace(
    "THE_CALLS",
    """\
{{ '[TOOL_CALLS][' }}
{%- for call in message.tool_calls -%}
{%- if call.id | length != 9 -%}{{ raise_exception('ids have nine characters') }}{%- endif -%}
{{ '{"name": "' ~ call.function.name ~ '", "arguments": ' ~ (call.function.arguments | tojson) }}
{{- ', "id": "' ~ call.id ~ '"}' }}{{ ', ' if not loop.last }}
{%- endfor -%}
{{ ']<|im_end|>' }}""",
)
"""As Mistral's older ones: a list of calls."""

MISTRAL_NEWER = _MISTRAL.replace(
    "THE_CALLS",
    """\
{%- for call in message.tool_calls -%}
{{ '[TOOL_CALLS]' ~ call.function.name ~ '[ARGS]' ~ (call.function.arguments | tojson) }}
{%- endfor -%}
{{ '<|im_end|>' }}""",
)
"""As Mistral's newer ones: a header before the arguments of each call."""

QWEN_CODER = (
    """\
{%- if tools -%}{{ '<tools>' ~ (tools | tojson) ~ '</tools>' }}{%- endif -%}
{%- for message in messages -%}"""
    + _TURN
    + """
{{- message.content }}
{%- for call in message.tool_calls or [] -%}
{{ '<tool_call>\\n<function=' ~ call.function.name ~ '>\\n' }}
{%- for key, value in call.function.arguments | items -%}
{{ '<parameter=' ~ key ~ '>\\n' ~ value ~ '\\n</parameter>\\n' }}
{%- endfor -%}
{{ '</function>\\n</tool_call>' }}
{%- endfor -%}"""
    + _END
    + """
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
)
"""As Qwen 3 Coder: arguments in tags, which mlx-lm reads by the tool's schema."""

UNKNOWN = (
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{% for message in messages %}{{ message.content }}{% endfor %}"
)
"""Describes tools, and leaves it open how they are called."""

FAMILIES = {
    "hermes": HERMES,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
    "mistral, newer": MISTRAL_NEWER,
    "qwen coder": QWEN_CODER,
}
