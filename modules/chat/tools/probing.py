"""Find out how a chat template writes calls of tools, by the differences between renderings of tiny conversations."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.chat.features import RenderAll, TemplateFeatures
from modules.chat.mending import mend
from modules.chat.message import Message
from modules.chat.renderer import Rendering
from modules.chat.tools.call_format import CallFormat
from modules.chat.tools.format_detection import ARGUMENTS, NAME, RESULT, SAID, Sample, described_calls, detect

_QUESTION, _THOUGHT = "probequestion", "probethought"
_DESCRIPTION = "probedescription"
_SHORT_ID, _LONG_ID = "probe000{}", "call_probeprobeprobeprobe{}"
"""Some templates take nothing but ids of nine letters and digits."""
NAMED_ID = "functions.{name}:{}"
"""The ids that Kimi K2 was trained on. Its template writes no other name into a call."""
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
    """The abilities of a template with tools: whether it describes them, writes calls, and writes results.

    `calls` is the format of its calls, None if it has none that is known. With `calls_as_text`, it describes the format
    only, and calls of the conversation must be in the text. With `short_ids`, the ids of calls must have
    nine letters or digits; with `named_ids`, they are the names with a number. With `no_text`, a message with calls
    must have no text, not even an empty one; with `thought_or_text`, not both. `result_tag` comes where a result would
    begin, which the model should not write.
    """

    describes: bool = False
    calls: CallFormat | None = None
    results: bool = False
    calls_as_text: bool = False
    short_ids: bool = False
    named_ids: bool = False
    no_text: bool = False
    thought_or_text: bool = False
    result_tag: str = ""


def probe_tools(render: RenderAll, features: TemplateFeatures, source: str) -> ToolSupport:
    """Return what the template with this `source`, which `render` renders, does with tools."""
    described = _rendered(render, features, {"question": [_user()]}, tools=True)["question"]
    describes = described.shows(NAME, _QUESTION)
    rendered = _rendered(render, features, _conversations(), tools=describes)
    answer = rendered["answer"]
    thought_end = features.markers.close if features.markers else ""
    sample = Sample("", "", _after(answer, SAID), _header(answer, SAID), thought_end)
    for kind in ("speaking", "silent", "no text", "named ids"):
        one = rendered[kind]
        sample = dataclasses.replace(sample, one=_last(one), two=_last(rendered[f"two, {kind}"]))
        calls = detect(sample, source)
        if calls is not None:
            break
    else:
        known = described_calls(source) if describes else None
        results = rendered["silent"].shows(RESULT)
        return ToolSupport(describes=describes, calls=known, results=results, calls_as_text=known is not None)
    return ToolSupport(
        describes=describes,
        calls=calls,
        results=one.shows(RESULT) or rendered["silent"].shows(RESULT),
        short_ids=bool(rendered["long ids"].error) and not rendered["silent"].error,
        named_ids=kind == "named ids",
        no_text=kind == "no text",
        thought_or_text=bool(rendered["thought and text"].error) and not rendered["speaking"].error,
        result_tag=sample.result_tag,
    )


def _conversations() -> dict[str, list[Message]]:
    """Return conversations with one call, or two, by what is special about them."""
    forms = {"speaking": (SAID, _SHORT_ID), "silent": ("", _SHORT_ID), "no text": (None, _SHORT_ID)}
    forms["named ids"] = (SAID, NAMED_ID)
    one = {kind: [_user(), _calling(text, 1, ids), *_results(1, ids)] for kind, (text, ids) in forms.items()}
    two = {f"two, {kind}": [_user(), _calling(text, 2, ids), *_results(2, ids)] for kind, (text, ids) in forms.items()}
    thought = {"reasoning_content": _THOUGHT, "thinking": _THOUGHT}
    return {
        **one,
        **two,
        "long ids": [_user(), _calling("", 1, _LONG_ID), *_results(1, _LONG_ID)],
        "thought and text": [_user(), {**_calling(SAID, 1, _SHORT_ID), **thought}, *_results(1, _SHORT_ID)],
        "answer": [_user(), {"role": "assistant", "content": SAID}, _user()],
    }


def _rendered(
    render: RenderAll, features: TemplateFeatures, conversations: Mapping[str, Sequence[Message]], tools: bool
) -> dict[str, Rendering]:
    given = [_PROBE_TOOL] if tools else None
    variants: list[dict[str, Any]] = [
        {"messages": mend(messages, features), "tools": given, "add_generation_prompt": False}
        for messages in conversations.values()
    ]
    return dict(zip(conversations, render(variants), strict=True))


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


def _calling(text: str | None, count: int, ids: str) -> Message:
    calls = [
        {
            "type": "function",
            "id": ids.format(index, name=NAME),
            "function": {"name": NAME, "arguments": dict(ARGUMENTS)},
        }
        for index in range(count)
    ]
    return {"role": "assistant", "content": text, "tool_calls": calls}


def _results(count: int, ids: str) -> list[Message]:
    return [
        {"role": "tool", "content": RESULT, "name": NAME, "tool_call_id": ids.format(index, name=NAME)}
        for index in range(count)
    ]
