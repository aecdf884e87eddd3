"""Find the strings that end a reply: those by which a template separates the messages of a conversation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

from modules.chat.errors import TemplateRefused
from modules.chat.message import Message
from modules.chat.templates import ALPACA_STOPS, ChatTemplates, ModelTemplate
from modules.core.reasoning import ReasoningMarkers

_TEXTS = ("first user message", "first assistant message", "second user message", "second assistant message")
_MESSAGES: Sequence[Message] = [
    {"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(_TEXTS)
]
_BRACKETS = {"<": ">", "[": "]", "(": ")", "{": "}"}


def template_stops(templates: ChatTemplates, template: ModelTemplate) -> tuple[str, ...]:
    """Return the strings by which a template separates messages, except for those that end a thought."""
    if template.is_ours:
        return ALPACA_STOPS
    found: tuple[str, ...] = ()
    with suppress(TemplateRefused):  # it may take other conversations than that of `separators`
        found = separators(lambda messages: templates.render(template, messages, generation_prompt=False))
    return without_markers(found, templates.features(template).markers)


def separators(render: Callable[[Sequence[Message]], str]) -> tuple[str, ...]:
    """Return what follows a message in a rendering without generation prompt, up to the first closing bracket or colon.

    Returns () for a template that changes the messages.
    """
    rendered = render(_MESSAGES)
    starts = [rendered.find(text) for text in _TEXTS]
    if min(starts) < 0 or starts != sorted(starts):
        return ()
    ends = [start + len(text) for start, text in zip(starts, _TEXTS, strict=True)]
    following = (rendered[ends[0] : starts[1]], rendered[ends[1] : starts[2]], rendered[ends[3] :])
    found = dict.fromkeys(stop for stop in map(_beginning, following) if stop)
    return tuple(one for one in found if not any(one != other and one.startswith(other) for other in found))


def without_markers(stops: Sequence[str], markers: ReasoningMarkers | None) -> tuple[str, ...]:
    """Return the strings that do not occur around a thought, at whose end they would end the reply."""
    if markers is None:
        return tuple(stops)
    texts = (markers.open, markers.close, *markers.headers)
    return tuple(stop for stop in stops if not any(stop in text for text in texts))


def _beginning(text: str) -> str:
    """Return the beginning of a separator, "" if nothing marks its end."""
    stripped = text.strip()
    closing = _BRACKETS.get(stripped[:1], "")
    if closing and closing in stripped:
        return stripped.partition(closing)[0] + closing
    return text.partition(":")[0] + ":" if ":" in text else ""
