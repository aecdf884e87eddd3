"""Find out how a chat template writes calls of tools, by the differences between renderings of tiny conversations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from modules.chat.features import RenderAll, TemplateFeatures
from modules.chat.mending import mend
from modules.chat.message import Message
from modules.chat.renderer import Rendering
from modules.chat.tools.call_format import CallFormat
from modules.chat.tools.format_detection import ARGUMENTS, NAME, RESULT, SAID, Sample, detect

_QUESTION = "probequestion"
_DESCRIPTION = "probedescription"
_SHORT_ID, _LONG_ID = "probe000{}", "call_probeprobeprobeprobe{}"
"""Some templates take nothing but ids of nine letters and digits."""
_PROBE_TOOL = {
    "type": "function",
    "function": {
        "name": NAME,
        "description": _DESCRIPTION,
        "parameters": {
            "type": "object",
            "properties": {
                name: {"type": "string" if isinstance(value, str) else "integer", "description": "probe"}
                for name, value in ARGUMENTS.items()
            },
            "required": list(ARGUMENTS),
        },
    },
}


@dataclass(frozen=True)
class ToolSupport:
    """What a template does with tools by itself: whether it describes them, writes calls, and writes results.

    `calls` is the format of its calls, None if it has none that is known. With `short_ids`, the ids of calls must have
    nine letters or digits. With `no_text`, a message with calls must have no text, not even an empty one. `result_tag`
    comes where a result would begin, which the model should not write.
    """

    describes: bool = False
    calls: CallFormat | None = None
    results: bool = False
    short_ids: bool = False
    no_text: bool = False
    result_tag: str = ""


def probe_tools(render: RenderAll, features: TemplateFeatures, source: str) -> ToolSupport:
    """Return what the template with this `source`, which `render` renders, does with tools."""
    described, *_ = _rendered(render, features, [[_user()]], tools=True)
    describes = described.shows(NAME, _QUESTION)
    conversations = [
        [_user(), _calling("", 1), *_results(1)],
        [_user(), _calling(SAID, 1), *_results(1)],
        [_user(), _calling(SAID, 2), *_results(2)],
        [_user(), _calling("", 1, _LONG_ID), *_results(1, _LONG_ID)],
        [_user(), {"role": "assistant", "content": SAID}, _user()],
        [_user(), _calling(None, 1), *_results(1)],
        [_user(), _calling(None, 2), *_results(2)],
    ]
    silent, speaking, two, long_ids, answer, no_text, two_of_them = _rendered(
        render, features, conversations, tools=describes
    )
    one = speaking if speaking.shows(NAME) else silent
    thought_end = features.markers.close if features.markers else ""
    sample = Sample(_last(one), _last(two), _after(answer, SAID), _header(answer, SAID), thought_end)
    calls = detect(sample, source)
    if needs_none := calls is None and no_text.shows(NAME):
        sample = dataclasses.replace(sample, one=_last(no_text), two=_last(two_of_them))
        calls = detect(sample, source)
    return ToolSupport(
        describes=describes,
        calls=calls,
        results=one.shows(RESULT) or silent.shows(RESULT),
        short_ids=bool(long_ids.error) and not silent.error,
        no_text=needs_none,
        result_tag=sample.result_tag,
    )


def _rendered(
    render: RenderAll, features: TemplateFeatures, conversations: Sequence[Sequence[Message]], tools: bool
) -> list[Rendering]:
    given = [_PROBE_TOOL] if tools else None
    variants: list[dict[str, Any]] = [
        {"messages": mend(messages, features), "tools": given, "add_generation_prompt": False}
        for messages in conversations
    ]
    return render(variants)


def _last(rendering: Rendering) -> str:
    """Return the end of a rendering: what follows the question."""
    return "" if rendering.error else rendering.text.rpartition(_QUESTION)[2]


def _after(rendering: Rendering, word: str) -> str:
    return "" if rendering.error else rendering.text.rpartition(word)[2]


def _header(rendering: Rendering, word: str) -> str:
    """Return what stands between the question and an answer."""
    return "" if rendering.error else rendering.text.partition(_QUESTION)[2].partition(word)[0]


def _user() -> Message:
    return {"role": "user", "content": _QUESTION}


def _calling(text: str | None, count: int, ids: str = _SHORT_ID) -> Message:
    calls = [
        {"type": "function", "id": ids.format(index), "function": {"name": NAME, "arguments": dict(ARGUMENTS)}}
        for index in range(count)
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


def _results(count: int, ids: str = _SHORT_ID) -> list[Message]:
    return [
        {"role": "tool", "content": RESULT, "name": NAME, "tool_call_id": ids.format(index)} for index in range(count)
    ]
