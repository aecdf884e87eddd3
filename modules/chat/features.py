"""Find out what a chat template can take, by the differences between renderings of tiny conversations."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.chat.message import Message
from modules.chat.renderer import Rendering
from modules.core.reasoning import KNOWN_MARKERS, ReasoningMarkers

RenderAll = Callable[[Sequence[Mapping[str, Any]]], list[Rendering]]
"""Render a template with each of these sets of variables."""

# Words that neither trimming nor a change of case at their beginning hides.
_SYSTEM, _SYSTEM_2 = "probesystemone", "probesystemtwo"
_USER, _USER_2 = "probeuserone", "probeusertwo"
_ANSWER, _ANSWER_2 = "probeanswerone", "probeanswertwo"
_THOUGHT, _RESULT = "probethought", "proberesult"
_UNKNOWN_ROLE = "proberole"

# Such as "</think>", "[/THINK]", "<|END_THINKING|>" and Gemma 4's "<channel|>".
_CLOSING_TAG = re.compile(r".*/|<\|?END|<[^|]+\|>$", re.DOTALL)
_LAST_TAG = re.compile(r"(<[^<>]+>|\[[^\[\]]+\])\s*$")
_FIRST_TAG = re.compile(r"\s*(<[^<>]+>|\[[^\[\]]+\])")


@dataclass(frozen=True)
class TemplateFeatures:
    """The abilities of a template; the defaults are those of a template about which nothing is known.

    `parts` are the roles whose content must be a list of parts: as a string it would be lost. With `text_arguments`,
    the arguments of calls must be JSON text; other templates would show such text in quotes. `open_thought` is the tag
    that a prompt ends with if the template begins the model's thoughts, such as "<think>". `markers` surround the
    thoughts of an answer, and `thought_start` is the first of them with the white space that belongs to it; None and ""
    if they are not known.
    """

    system: bool = True
    several_systems: bool = True
    late_system: bool = True
    developer: bool = True
    equal_neighbors: bool = True
    assistant_first: bool = True
    parts: frozenset[str] = frozenset()
    reasoning: bool = False
    tool_results: bool = False
    text_arguments: bool = False
    open_thought: str = ""
    markers: ReasoningMarkers | None = None
    thought_start: str = ""


def probe(render: RenderAll) -> TemplateFeatures:
    """Return the features of the template that `render` renders."""
    form = _content_form(render)
    if form is None:  # it refuses every conversation; its own message says more than ours could
        return TemplateFeatures()
    system, parts = form
    conversations = _conversations(system)
    rendered = dict(
        zip(
            [*conversations, "prompt", "no prompt", "thought"],
            render(
                [
                    *({"messages": with_parts(messages, parts)} for messages in conversations.values()),
                    {"messages": with_parts([_user(_USER)], parts)},
                    {"messages": with_parts([_user(_USER)], parts), "add_generation_prompt": False},
                    {"messages": with_parts(conversations["reasoning"], parts), "add_generation_prompt": False},
                ]
            ),
            strict=True,
        )
    )
    open_thought = _open_thought(rendered)
    markers, thought_start = _markers(rendered, open_thought)
    return TemplateFeatures(
        system=system,
        several_systems=system and rendered["several systems"].shows(_SYSTEM, _SYSTEM_2),
        late_system=system and rendered["late system"].shows(_SYSTEM, _SYSTEM_2),
        developer=rendered["developer"].shows(_SYSTEM) and not rendered["unknown role"].shows(_SYSTEM),
        equal_neighbors=rendered["two questions"].shows(_USER, _USER_2)
        and rendered["two answers"].shows(_ANSWER, _ANSWER_2),
        assistant_first=rendered["greeting"].shows(_ANSWER, _USER),
        parts=parts,
        reasoning=rendered["reasoning"].shows(_THOUGHT),
        tool_results=rendered["tool result"].shows(_RESULT) or rendered["text arguments"].shows(_RESULT),
        text_arguments=_needs_text(rendered["tool result"], rendered["text arguments"])
        or (
            not rendered["tool result"].error
            and _needs_text(rendered["call without text"], rendered["text arguments without text"])
        ),
        open_thought=open_thought,
        markers=markers,
        thought_start=thought_start,
    )


def with_known_markers(features: TemplateFeatures, source: str) -> TemplateFeatures:
    """Return `features` with known markers that the template's `source` mentions, if probing has found none."""
    for known in KNOWN_MARKERS if features.markers is None else ():
        if known.close in source and (known.open in source or "/" in known.close):
            return dataclasses.replace(features, markers=known, thought_start=f"{known.open}\n")
    return features


def with_parts(messages: Sequence[Message], roles: frozenset[str]) -> list[Message]:
    """Return `messages` with the text of these roles as a list of one part. A tool is treated as a user."""
    return [
        {**message, "content": [{"type": "text", "text": message["content"]}]}
        if {"tool": "user"}.get(message["role"], message["role"]) in roles and isinstance(message.get("content"), str)
        else message
        for message in messages
    ]


def _content_form(render: RenderAll) -> tuple[bool, frozenset[str]] | None:
    """Return whether system messages come through, and the fewest roles that need parts for all to come through."""
    roles = ("system", "user", "assistant")
    choices = [frozenset(some) for count in range(4) for some in itertools.combinations(roles, count)]
    dialog = [_user(_USER), _assistant(_ANSWER), _user(_USER_2)]
    for system, messages in ((True, [_system(_SYSTEM), *dialog]), (False, dialog)):
        words = [message["content"] for message in messages]
        variants = [{"messages": with_parts(messages, choice)} for choice in choices]
        for choice, rendering in zip(choices, render(variants), strict=True):
            if rendering.shows(*words):
                return system, choice
    return None


def _conversations(system: bool) -> dict[str, list[Message]]:
    """Return conversations that some templates refuse or shorten, by what is special about them."""

    def called(arguments: object, text: str | None = "") -> list[Message]:
        call = {"type": "function", "id": "call12345", "function": {"name": "probe", "arguments": arguments}}
        result = {"role": "tool", "content": _RESULT, "name": "probe", "tool_call_id": "call12345"}
        return [_user(_USER), {"role": "assistant", "content": text, "tool_calls": [call]}, result]

    return {
        "several systems": [_system(_SYSTEM), _system(_SYSTEM_2), _user(_USER)],
        "late system": [_system(_SYSTEM), _user(_USER), _assistant(_ANSWER), _system(_SYSTEM_2), _user(_USER_2)],
        "developer": [{"role": "developer", "content": _SYSTEM}, _user(_USER)],
        "unknown role": [{"role": _UNKNOWN_ROLE, "content": _SYSTEM}, _user(_USER)],
        "two questions": [_user(_USER), _user(_USER_2)],
        "two answers": [_user(_USER), _assistant(_ANSWER), _assistant(_ANSWER_2), _user(_USER_2)],
        "greeting": [_assistant(_ANSWER), _user(_USER)],
        "answer": [_user(_USER), _assistant(_ANSWER)],
        "reasoning": [_user(_USER), {**_assistant(_ANSWER), "reasoning_content": _THOUGHT, "thinking": _THOUGHT}],
        "tool result": called({"x": 1}),
        "text arguments": called('{"x": 1}'),
        "call without text": called({"x": 1}, None),
        "text arguments without text": called('{"x": 1}', None),
    }


def _needs_text(mapping: Rendering, text: Rendering) -> bool:
    """Return whether a template takes the arguments of a call only as text."""
    return bool(mapping.error) and not text.error


def _open_thought(rendered: Mapping[str, Rendering]) -> str:
    """Return the tag that ends a prompt for a new answer, unless earlier answers begin with it and never close it."""
    question, prompt = rendered["no prompt"].text, rendered["prompt"].text
    if not prompt.startswith(question):
        return ""
    match = _LAST_TAG.search(prompt[len(question) :])
    if match is None or _CLOSING_TAG.match(match[1]):
        return ""
    tag, header = match[1], rendered["answer"].text.partition(_ANSWER)[0]
    belongs_to_header = header.startswith(prompt.rstrip()) and _closing(tag) not in header
    return "" if belongs_to_header else tag


def _markers(rendered: Mapping[str, Rendering], open_thought: str) -> tuple[ReasoningMarkers | None, str]:
    """Return what surrounds a thought, and its beginning with the white space after it. None and "" if neither shows.

    What stands between a thought and the answer is the closing marker and, in some formats, a header of the answer.
    """
    prompt, (before, found, rest) = rendered["prompt"].text, rendered["thought"].text.partition(_THOUGHT)
    between, answered, _ = rest.partition(_ANSWER)
    if not found or not answered:
        opening = prompt[prompt.rfind(open_thought) :] if open_thought else ""
        return (ReasoningMarkers(open_thought, _closing(open_thought)), opening) if opening else (None, "")
    for known in KNOWN_MARKERS:
        if before.rstrip().endswith(known.open) and between.lstrip().startswith(known.close):
            return known, before[before.rindex(known.open) :]
    opened, closed = _LAST_TAG.search(before), _FIRST_TAG.match(between)
    if opened is None or closed is None:
        return None, ""
    if opened[1] != open_thought and prompt.rstrip().endswith(opened[1]):  # it is a mark of the role
        return None, ""
    header = between[closed.end() :].strip()
    return ReasoningMarkers(opened[1], closed[1], (header,) if header else ()), opened[0]


def _closing(tag: str) -> str:
    """Return the tag that closes `tag`, as in HTML."""
    return f"{tag[0]}/{tag[1:]}"


def _system(text: str) -> Message:
    return {"role": "system", "content": text}


def _user(text: str) -> Message:
    return {"role": "user", "content": text}


def _assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}
