"""Chat templates: from a list of messages to the one text a model was trained to continue."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from modules.errors import Unsupported

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
"""For models that bring no template of their own: the Alpaca form, which many of them were trained on."""


def render(
    template: str, messages: Sequence[Message], bos_token: str = "", eos_token: str = "", continue_last: bool = False
) -> str:
    """The prompt for the next answer, or with `continue_last` the one that goes on with the last message.

    `template` is Jinja as in `tokenizer.chat_template`; empty means DEFAULT. Unsupported if it refuses the messages
    (such as a system message where the model knows none) or is broken; its own words are in the message.
    """
    shown, tail = (messages[:-1], str(messages[-1]["content"])) if continue_last else (messages, "")
    try:
        text = _compiled(template or DEFAULT).render(
            messages=list(shown), add_generation_prompt=True, bos_token=bos_token, eos_token=eos_token
        )
    except (jinja2.TemplateError, TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
        raise Unsupported(
            {
                "en": f"The model's chat template refused these messages: {error}",
                "zh": f"模型的聊天模板拒绝了这些消息：{error}",
            }
        ) from error
    return text + tail


@lru_cache(maxsize=8)
def _compiled(template: str) -> jinja2.Template:
    """A template comes with a downloaded model, so it runs in Jinja's sandbox."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment.from_string(template)


def _to_json(value: object, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(reason: str) -> NoReturn:
    raise jinja2.TemplateError(reason)
