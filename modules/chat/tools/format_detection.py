"""Recognize the format of calls in renderings of a conversation with calls of a probe."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modules.chat.tools.call_format import CallFormat, Frame, tags
from modules.chat.tools.gemma_format import QUOTE, GemmaCalls
from modules.chat.tools.harmony_format import HarmonyCalls
from modules.chat.tools.json_format import LLAMA_TAG, JsonCalls
from modules.chat.tools.marked_format import MarkedCalls
from modules.chat.tools.xml_format import XmlCalls

NAME = "probetool"
SAID = "probesaid"
RESULT = "proberesult"
ARGUMENTS: Mapping[str, str | int] = {"probetext": "probevalue", "probenumber": 7}

_TEXT_KEY, _NUMBER_KEY = ARGUMENTS
_JSON = re.compile(rf'\{{\s*"{_TEXT_KEY}":\s*"probevalue",\s*"{_NUMBER_KEY}":\s*7\s*\}}')
_ID = re.compile(r"probe000\d")
_NUMBER = re.compile(r":\d+")
_MEMBERS = re.compile(r"\{[^{}]*(?=\})")
_TAG_START = re.compile(r"[<\[]")
_ID_MEMBER = re.compile(r',\s*"\w*id"\s*:\s*"probe000\d"')
_NUMBERED = re.compile(r'("tool_call_id":\s*)"\d"')
_NAME_IN_JSON = re.compile(r'\{[^{}]*"(?:name|tool_name)":\s*$')
_KEY_OF_ARGUMENTS = re.compile(r'^,\s*"(?:arguments|parameters)":\s*$')
_OPENING = re.compile(r"[<\[{]")
_TAG_AHEAD = re.compile(r"\s*(<[^<>]+>|\[[A-Z_]+\])")
_STRING_END = re.compile(r'^(<\|"\|>|")')  # Gemma 4 has special tokens for quotes
_BRACKETS = re.compile(r"[\s}\]`]*")
# Such as "</tool_call>", "[/X]", "<|END_ACTION|>", "<|tools_suffix|>" and Gemma 4's "<tool_call|>".
_CLOSING = re.compile(r"[\s}\]`]*(<\|?/[^<>]+>|\[/[A-Z_]+\]|<[^<>]*(?:end|END|suffix)[^<>]*>|<[^<>|]+\|>)")


GRANITE_CALLS = JsonCalls(Frame("<|tool_call|>[", '{"name": ', "}", ", ", "]"), ', "arguments": ')
"""The templates of Granite 3 describe this format, and leave calls out of the conversation."""


@dataclass(frozen=True)
class Sample:
    """The texts after a question: one call and its result, two calls and theirs ("" if it refuses them).

    `answer_end` follows an answer without calls, and `header` precedes it. `thought_end` ends a thought.
    """

    one: str
    two: str
    answer_end: str
    header: str
    thought_end: str = ""

    @property
    def result_tag(self) -> str:
        """The tag of a result that follows a call at once, instead of what ends answers; "" for none."""
        call = self.one.partition(RESULT)[0]
        after = call[max(call.rfind(value) + len(value) for value in map(str, ARGUMENTS.values())) :]
        after = _STRING_END.sub("", after)
        found = _TAG_AHEAD.match(after, len(_closing(after, self.answer_end)))
        return found[1] if found and found[1] not in self.answer_end else ""


@dataclass(frozen=True)
class _Parts:
    """The texts around the inner parts of calls; `between` is None for a template that takes one call in a message."""

    before: str
    between: str | None
    after: str

    def frame(self) -> Frame:
        """Split the surroundings into those of each call and those of all together."""
        if self.between is None:
            return Frame("", self.before, self.after, parallel=False)
        call_open = _common_end(self.before, self.between)
        left = self.between[: len(self.between) - len(call_open)]
        call_close = _common_start(left, self.after)
        return Frame(
            self.before[: len(self.before) - len(call_open)],
            call_open,
            call_close,
            left[len(call_close) :],
            self.after[len(call_close) :],
        )


def detect(sample: Sample, source: str) -> CallFormat | None:
    """Return the format of the calls, None if it is not known. `source` is that of the template."""
    one, two = (_NUMBERED.sub(r'\1"0"', _ID_MEMBER.sub("", text)) for text in (sample.one, sample.two))
    sample = dataclasses.replace(sample, one=one.partition(RESULT)[0], two=two.partition(RESULT)[0])
    if NAME not in sample.one:
        return None
    if f"to=functions.{NAME}" in sample.one and "<|message|>" in sample.one:
        return HarmonyCalls()
    formats = (_json_calls(sample, source), _gemma_calls(sample), _marked_calls(sample), _xml_calls(sample))
    return next((found for found in formats if found is not None), None)


def described_calls(source: str) -> CallFormat | None:
    """Return the format that a template tells the model to use, if it writes no calls itself. None if not known."""
    return GRANITE_CALLS if "<|tool_call|>" in source else None


def _json_calls(sample: Sample, source: str) -> CallFormat | None:
    start = sample.one.find(f'"{NAME}"')
    found = _JSON.search(sample.one, max(start, 0))
    if start < 0 or found is None:
        return None
    before, between = _before(sample, start), sample.one[start + len(NAME) + 2 : found.start()]
    if not _NAME_IN_JSON.search(before) or not _KEY_OF_ARGUMENTS.match(between):
        return None
    frame = _parts(sample, before, _JSON, f'"{NAME}"').frame()
    bare = not (frame.open + frame.call_open).partition("{")[0].strip()
    return JsonCalls(frame, between, (LLAMA_TAG,) if bare or LLAMA_TAG in source else ())


def _gemma_calls(sample: Sample) -> CallFormat | None:
    start = sample.one.find(f"call:{NAME}{{")
    if start < 0:
        return None
    before = _before(sample, start + len("call:"))
    quote = QUOTE if QUOTE in sample.one else '"'
    return GemmaCalls(_parts(sample, before, _MEMBERS, NAME).frame(), quote) if "<" in before else None


def _marked_calls(sample: Sample) -> CallFormat | None:
    start = sample.one.find(NAME)
    found = _JSON.search(sample.one, start)
    if found is None:
        return None
    before, separator, name_end = _before(sample, start), sample.one[start + len(NAME) : found.start()], ""
    has_id = _ID.search(separator)
    if end := has_id or _NUMBER.match(separator):
        name_end, separator = separator[: end.end()], separator[end.end() :]
    if not (_TAG_AHEAD.search(separator) or separator.strip() in (">", "```json")) or not _TAG_START.search(before):
        return None
    frame = _parts(sample, before, _JSON, NAME).frame()
    ids = tags(name_end) if has_id else ("[CALL_ID]",) if separator == "[ARGS]" else ()
    return MarkedCalls(frame, separator, "" if has_id else name_end, ids)


def _xml_calls(sample: Sample) -> CallFormat | None:
    start = sample.one.find(NAME)
    call = sample.one[start + len(NAME) :]
    keys = sorted(ARGUMENTS, key=call.find)
    parts = _xml_parts(keys).match(call)
    if parts is None:
        return None
    key_open = _common_end(parts[1], parts[3])
    key_open = key_open[max(key_open.rfind("<"), 0) :]
    value_end = parts[3][: len(parts[3]) - len(key_open)]
    ends = {keys[0]: parts[2], keys[1]: parts[4]}
    before = _before(sample, start)
    if not (key_open and value_end.strip() and parts[2].strip() and _TAG_START.search(before)):
        return None
    inner_end = re.compile(rf"{keys[1]}[^{{}}]*?{ARGUMENTS[keys[1]]}{re.escape(value_end)}")
    if inner_end.search(sample.one, start) is None:
        return None
    name_end = parts[1][: len(parts[1]) - len(key_open)]
    frame = _parts(sample, before, inner_end, NAME).frame()
    return XmlCalls(frame, name_end, key_open, ends[_TEXT_KEY], ends[_NUMBER_KEY], value_end)


def _xml_parts(keys: Sequence[str]) -> re.Pattern[str]:
    """Return the pattern of what separates the name, the keys and the values of a call."""
    first, second = keys
    return re.compile(rf"(.*?){first}(.*?){ARGUMENTS[first]}(.*?){second}(.*?){ARGUMENTS[second]}", re.DOTALL)


def _parts(sample: Sample, before: str, inner_end: re.Pattern[str], name: str) -> _Parts:
    """Return the surroundings of calls that begin with `name` and end with the match of `inner_end`."""
    starts = [found.start() for found in re.finditer(re.escape(name), sample.two)]
    first = inner_end.search(sample.two, starts[0]) if len(starts) > 1 else None
    last = inner_end.search(sample.two, starts[1]) if first else inner_end.search(sample.one, sample.one.find(name))
    assert last is not None
    between = sample.two[first.end() : starts[1]] if first else None
    return _Parts(before, between, _closing(last.string[last.end() :], sample.answer_end))


def _before(sample: Sample, start: int) -> str:
    """Return what stands between the beginning of an answer and the first call, whose name begins at `start`."""
    text = sample.one[:start]
    if SAID in text:
        return text.rpartition(SAID)[2].lstrip()
    if sample.thought_end and sample.thought_end in text:
        return text.rpartition(sample.thought_end)[2].lstrip()
    common = _common_start(text, sample.header)
    opened = max(common.rfind("<"), common.rfind("["))
    if opened > max(common.rfind(">"), common.rfind("]")):  # within a tag
        common = common[:opened]
    return text[len(common) :].lstrip()


def _closing(text: str, answer_end: str) -> str:
    """Return the part of what follows a call that belongs to it: brackets, and tags that do not end any answer."""
    end = 0
    while (found := _CLOSING.match(text, end)) and found[1] not in answer_end:
        end = found.end()
    brackets = _BRACKETS.match(text, end)
    return text[: brackets.end() if brackets else end].rstrip()


def _common_end(first: str, second: str) -> str:
    """Return the longest common end of two texts that begins with a bracket, or all of `first`."""
    common = _common_start(first[::-1], second[::-1])[::-1]
    bracket = _OPENING.search(common)
    return common if common == first else common[bracket.start() :] if bracket else ""


def _common_start(first: str, second: str) -> str:
    pairs = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))
    return "".join(character for character, _ in pairs)
