"""Templates put pictures where their models want them; the templates are as short as their kinds allow."""

from __future__ import annotations

from typing import Any

import pytest

from modules.chat.message import Message
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.core.image_marks import mark

TEMPLATES = ChatTemplates()
ZERO, ONE = mark(0), mark(1)

# By where the picture is put: (template, content with marks, what the template makes of it).
END = "{% if add_generation_prompt %}[A]{% endif %}"
TEXT_ONLY = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}" + END
IN_PLACE = (
    """{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}
{%- for c in m.content %}{% if c.type == 'image' or 'image_url' in c %}<|vision_start|><|image_pad|><|vision_end|>
{%- else %}{{ c.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"""
    + END
)
FIRST = """{% for m in messages %}[{{ m.role }}]{% if m.content is string %}{{ m.content }}{% else %}
{%- for c in m.content if c.type == 'image' %}<image>
{% endfor %}{% for c in m.content if c.type == 'text' %}{{ c.text }}{% endfor %}{% endif %}{% endfor %}[A]"""
OTHER_NAME = IN_PLACE.replace("c.type == 'image' or 'image_url' in c", "c.type == 'image_url'")
NUMBERED = IN_PLACE.replace("<|vision_start|><|image_pad|><|vision_end|>", "<|image_{{ loop.index }}|>")
REFUSING = IN_PLACE.replace("<|vision_start|>", "{{ raise_exception('no pictures') }}")
SPACED = """{% for m in messages %}User:{% if m.content[0].type != 'image' %} {% endif %}{% for c in m.content %}
{%- if c.type == 'image' %}<image>{% else %}{{ c.text }}{% endif %}{% endfor %}{% endfor %}[A]"""
CASES = {
    "a template of texts": (TEXT_ONLY, f"see {ZERO} and", f"[user]see {ZERO} and[A]"),
    "in place": (IN_PLACE, f"see {ZERO} and {ONE}", f"[user]see {ZERO} and {ONE}[A]"),
    "before the text": (FIRST, f"see {ZERO} and {ONE}?", f"[user]{ZERO}\n{ONE}\nsee  and ?[A]"),
    "by another name": (OTHER_NAME, f"see {ZERO}", f"[user]see {ZERO}[A]"),
    "numbered texts": (NUMBERED, f"see {ZERO} and {ONE}", f"[user]see {ZERO} and {ONE}[A]"),
    "a template that refuses pictures": (REFUSING, f"see {ZERO}", f"[user]see {ZERO}[A]"),
    "a template that takes few parts": (
        IN_PLACE.replace(
            "[{{ m.role }}]",
            "[{{ m.role }}]{% if m.content | length > 4 and m.content is not string %}"
            "{{ raise_exception('too many parts') }}{% endif %}",
            1,
        ),
        f"a {ZERO} b {ONE} c",
        f"[user]a {ZERO} b {ONE} c[A]",
    ),
    "without a space before a picture": (SPACED, f"{ZERO}see", f"User:{ZERO}see[A]"),
    "the words of a picture in the text of a user": (FIRST, f"<image> {ZERO}", f"[user]<image> {ZERO}[A]"),
}


def test_the_mark_stands_where_the_template_puts_the_picture(subtests: pytest.Subtests) -> None:
    for name, (source, content, prompt) in CASES.items():
        with subtests.test(name):
            messages: list[Message] = [{"role": "user", "content": content}]
            assert TEMPLATES.render(ModelTemplate("model", source), messages) == prompt


def test_pictures_of_merged_and_of_several_messages_stay_in_order() -> None:
    strict = IN_PLACE.replace("{% for m in messages %}", _ALTERNATE, 1)
    messages: list[Message] = [
        {"role": "user", "content": f"one {ZERO}"},
        {"role": "user", "content": f"two {ONE}"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": f"{ZERO}?"},
    ]
    prompt = TEMPLATES.render(ModelTemplate("model", strict), messages)
    assert prompt == f"[user]one {ZERO}\n\ntwo {ONE}[assistant]yes[user]{ZERO}?[A]"


def test_an_answer_is_continued_after_a_picture() -> None:
    messages: list[Any] = [{"role": "user", "content": f"{ZERO}?"}, {"role": "assistant", "content": "It is"}]
    prompt = TEMPLATES.render(ModelTemplate("model", IN_PLACE), messages, continue_last=True)
    assert prompt == f"[user]{ZERO}?[assistant]It is"


_ALTERNATE = """{% for m in messages %}
{%- if loop.index0 % 2 != (m.role == 'assistant') | int %}{{ raise_exception('roles must alternate') }}{% endif %}"""
