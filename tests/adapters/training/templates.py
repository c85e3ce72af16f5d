"""Chat templates of other families, in our own words, on the tokenizer of the tiny model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from adapters.base.tokenizer import BaseTokenizer, load_tokenizer

PLAIN = """\
{%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

# Keeps the reasoning of the last answer only, as reasoning models do.
FORGETS_REASONING = """\
{%- for message in messages -%}
{%- set content = message.content -%}
{%- if message.role == 'assistant' and not loop.last -%}
{%- set content = content.split('</think>')[-1] -%}
{%- endif -%}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ content ~ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""

OPENS_WITH_REASONING = PLAIN.replace(
    "assistant\\n' }}{%- endif", "assistant\\n<think>' }}{%- endif"
)

NO_END = PLAIN.replace("'<|im_end|>\\n'", "'\\n\\n'")

TWO_ENDS = PLAIN.replace("<|im_end|>\\n", "<|im_end|><|im_end|>\\n")

TOOLS = """\
{%- if tools -%}{{ '<|im_start|>system\\n' ~ (tools | tojson) ~ '<|im_end|>\\n' }}{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' ~ message.role ~ '\\n' ~ message.content }}
{%- for call in message.tool_calls or [] -%}
{{ '<call>' ~ call.function.name ~ (call.function.arguments | tojson) ~ '</call>' }}
{%- endfor -%}
{{ '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""


def with_template(model: Path, target: Path, template: str | None) -> BaseTokenizer:
    """The model's tokenizer under another chat template; None has none."""
    shutil.copytree(model, target, ignore=shutil.ignore_patterns("*.safetensors", "*.jinja"))
    file = target / "tokenizer_config.json"
    config = json.loads(file.read_text())
    config.pop("chat_template", None)
    if template is not None:
        config["chat_template"] = template
    file.write_text(json.dumps(config))
    return load_tokenizer(target)
