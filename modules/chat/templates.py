"""Render chat templates: turn a list of messages into the text that a model was trained to continue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.ext import Extension
from jinja2.nodes import Node
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from modules.core.errors import Unsupported

Message = Mapping[str, Any]
"""{"role": "system" | "user" | "assistant" | "tool", "content": str}, as in OpenAI's API."""

DEFAULT = """\
{%- for message in messages %}
{%- if message.role == 'system' %}{{ message.content }}

{% elif message.role == 'user' %}### Instruction:
{{ message.content }}

{% else %}### Response:
{{ message.content }}{{ eos_token }}

{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}### Response:
{% endif %}"""
"""The template for models without one: the Alpaca format, which many of them were trained on."""


# Besides Jinja's own errors: those of unexpected messages, an endless range or an endless macro.
_TEMPLATE_ERRORS = (
    *(jinja2.TemplateError, TypeError, ValueError, LookupError, AttributeError),
    *(ArithmeticError, RecursionError),
)


def render(
    template: str, messages: Sequence[Message], bos_token: str = "", eos_token: str = "", continue_last: bool = False
) -> str:
    """Return the prompt for the next answer, or with `continue_last` the one that continues the last message.

    `template` is Jinja as in `tokenizer.chat_template`; empty means DEFAULT. Raises Unsupported, with the template's
    own message, if it refuses the messages (such as a system message that the model does not support) or is broken.
    """
    rendered, tail = (messages[:-1], str(messages[-1]["content"])) if continue_last else (messages, "")
    try:
        text = _compiled(template or DEFAULT).render(
            messages=list(rendered), add_generation_prompt=True, bos_token=bos_token, eos_token=eos_token
        )
    except _TEMPLATE_ERRORS as error:
        raise Unsupported(
            {
                "en": f"The model's chat template refused these messages: {error}",
                "zh": f"模型的聊天模板拒绝了这些消息：{error}",
            }
        ) from error
    return text + tail


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    """Compile a template in Jinja's sandbox, since it comes with a downloaded model."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda pattern: datetime.now().strftime(pattern)
    return environment.from_string(template)


class _Generation(Extension):
    """Render `{% generation %}`, which marks the model's own text for training, as its content."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> list[Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _raise_exception(reason: str) -> NoReturn:
    raise jinja2.TemplateError(reason)
