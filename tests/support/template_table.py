"""Chat templates of the kinds that are published, each small and written for these tests, with what they need."""

from __future__ import annotations

from typing import Any

_END = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}" + _END
)
_TEXT_OF_PARTS = "{% for part in m.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}"

TEMPLATES: dict[str, Any] = {
    "plain": CHATML,
    "a date": "{{ strftime_now('%Y') }}\n" + CHATML,
    "a guard against tools": "{% if tools is not none %}{{ tools | tojson }}{% endif %}" + CHATML,
    "a default for tools": "{% if not tools is defined %}{% set tools = none %}{% endif %}{{ tools }}" + CHATML,
    "documents": "{% if documents is not none %}{{ documents[0].title }}{% endif %}" + CHATML,
    "special tokens": "{{ bos_token }}{{ unk_token }}{{ pad_token }}{{ sep_token }}{{ image_token }}\n" + CHATML,
    "thinking": (
        "{% for m in messages %}{% set c = m.content %}{% if m.role == 'assistant' and '</think>' in c %}"
        "{% set c = c.split('</think>')[-1] %}{% endif %}<|im_start|>{{ m.role }}\n{{ c }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n<think>\n{% endif %}"
    ),
    "a switch for thinking": CHATML
    + "{% if add_generation_prompt and enable_thinking is defined and enable_thinking is false %}"
    "<think>\n\n</think>\n\n{% endif %}",
    "reasoning": (
        "{% for m in messages %}<|{{ m.role }}|>{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>"
        "{% endif %}{% if m.thinking is defined %}({{ m.thinking | length }}){% endif %}{{ m.content }}{% endfor %}"
    ),
    "generation marks": (
        "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}"
        "{% else %}{{ m.content }}{% endif %}{% endfor %}"
    ),
    "names": "{% for m in messages %}{{ m.get('name', m.role) }}: {{ m.content | trim }}\n{% endfor %}",
    "several": [{"name": "tool_use", "template": "WRONG"}, {"name": "default", "template": CHATML}],
    # Text in these reaches the prompt only as a list of parts.
    "parts": "{% for m in messages %}<|im_start|>{{ m.role }}\n" + _TEXT_OF_PARTS + "<|im_end|>\n{% endfor %}" + _END,
    "system in parts": (
        "{% if messages[0].role == 'system' %}{{ messages[0].content[0].text }}{% set rest = messages[1:] %}"
        "{% else %}{% set rest = messages %}{% endif %}{% for m in rest %}<|im_start|>{{ m.role }}\n"
        "{% if m.content is string %}{{ m.content }}{% else %}" + _TEXT_OF_PARTS + "{% endif %}<|im_end|>\n"
        "{% endfor %}" + _END
    ),
    # These refuse some conversations.
    "questions and answers only": (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('roles must alternate') }}{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}" + _END
    ),
    "one system message at the beginning": (
        "{% for m in messages %}{% if m.role == 'system' and not loop.first %}{{ raise_exception('not first') }}"
        "{% elif m.role not in ('system', 'user', 'assistant', 'tool') %}{{ raise_exception('unknown role') }}"
        "{% endif %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}" + _END
    ),
    "developer": (
        "{% for m in messages %}{% if m.role not in ('system', 'developer', 'user', 'assistant') %}"
        "{{ raise_exception('unknown role') }}{% endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}" + _END
    ),
}

PARTS = {"parts", "system in parts"}
"""Templates that get the content of messages as lists of parts."""
SPECIAL_TOKENS = {
    **{name: f"<{name}>" for name in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "image_token")}
}
