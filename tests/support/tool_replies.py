"""Replies with calls of tools as models of each format write them, and what is in them."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.chat.tools.tool import Tool
from modules.chat.tools.use import ToolUse
from modules.core.paths import ROOT

FOLDERS = [ROOT / "tests" / "support" / name for name in ("family_templates", "tool_templates")]
SPECIAL_TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}


def tool(name: str, properties: Mapping[str, Any], required: Sequence[str] = ()) -> Tool:
    parameters = {"type": "object", "properties": dict(properties), "required": list(required)}
    function = {"name": name, "description": f"Use {name}.", "parameters": parameters}
    return Tool(name, function["description"], parameters, source={"type": "function", "function": function})


WEATHER = tool(
    "get_weather",
    {
        "city": {"type": "string"},
        "days": {"type": "integer"},
        "exact": {"type": "boolean"},
        "ratio": {"type": "number"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "details": {"type": "object"},
        "note": {"type": ["string", "null"]},
        "anything": {},
    },
    ["city"],
)
NOW = tool("now", {})
WRITE = tool("write_file", {"path": {"type": "string"}, "content": {"type": "string"}}, ["path", "content"])
TOOLS = (WEATHER, NOW, WRITE)

Call = tuple[str, dict[str, Any]]


def source_of(name: str) -> str:
    return next(path for folder in FOLDERS if (path := folder / f"{name}.jinja").exists()).read_text(encoding="utf-8")


@functools.cache
def use_of(name: str) -> ToolUse:
    """Return how tools are used with one of the templates of the tests."""
    templates = ChatTemplates()
    use = ToolUse.of(templates, ModelTemplate(name, source_of(name), special_tokens=SPECIAL_TOKENS), TOOLS)
    templates.close()
    return use


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else _json(value)


def _gemma(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{_gemma(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return f"[{','.join(map(_gemma, value))}]"
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else _json(value)


def _tagged(calls: Sequence[Call]) -> str:
    return "\n".join(f'<tool_call>\n{{"name": "{n}", "arguments": {_json(a)}}}\n</tool_call>' for n, a in calls)


def _listed(opened: str, closed: str) -> Callable[[Sequence[Call]], str]:
    return lambda calls: (
        f"{opened}[{', '.join(_json({'name': name, 'arguments': values}) for name, values in calls)}]{closed}"
    )


def _xml(opened: str, name_end: str, key: str, key_end: str, value_end: str, closed: str) -> Callable[[Call], str]:
    def written(call: Call) -> str:
        values = "".join(f"{key}{name}{key_end}{_plain(value)}{value_end}" for name, value in call[1].items())
        return f"{opened}{call[0]}{name_end}{values}{closed}"

    return written


_QWEN = _xml("<tool_call>\n<function=", ">\n", "<parameter=", ">\n", "\n</parameter>\n", "</function>\n</tool_call>")
_GLM = _xml("<tool_call>", "\n", "<arg_key>", "</arg_key>\n<arg_value>", "</arg_value>\n", "</tool_call>")
_MINIMAX = _xml('<invoke name="', '">\n', '<parameter name="', '">', "</parameter>\n", "</invoke>\n")


def _r1(calls: Sequence[Call]) -> str:
    one = (
        f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{_json(values)}\n```<｜tool▁call▁end｜>"
        for name, values in calls
    )
    return f"<｜tool▁calls▁begin｜>{chr(10).join(one)}<｜tool▁calls▁end｜>"


def _v3(calls: Sequence[Call]) -> str:
    one = (f"<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{_json(values)}<｜tool▁call▁end｜>" for name, values in calls)
    return f"<｜tool▁calls▁begin｜>{''.join(one)}<｜tool▁calls▁end｜>"


def _kimi(calls: Sequence[Call]) -> str:
    one = (
        f"<|tool_call_begin|>functions.{name}:{index}<|tool_call_argument_begin|>{_json(values)}<|tool_call_end|>"
        for index, (name, values) in enumerate(calls)
    )
    return f"<|tool_calls_section_begin|>{''.join(one)}<|tool_calls_section_end|>"


def _harmony(calls: Sequence[Call]) -> str:
    return "<|call|><|start|>assistant".join(
        f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{_json(values)}"
        for name, values in calls
    )


@dataclass(frozen=True)
class Style:
    """How models of a format write. `tags` are an opening and a closing tag that a text may quote."""

    calls: Callable[[Sequence[Call]], str]
    tags: tuple[str, str] = ("<tool_call>", "</tool_call>")
    thought: tuple[str, str] = ("<think>\n", "\n</think>\n\n")
    text: tuple[str, str] = ("", "\n\n")
    bare: bool = False


HARMONY_THOUGHT = ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant")
STYLES: Mapping[str, Style] = {
    "qwen-3": Style(_tagged),
    "llama-3": Style(
        lambda calls: "; ".join(_json({"name": name, "parameters": values}) for name, values in calls),
        ("<|python_tag|>", "<|eom_id|>"),
        bare=True,
    ),
    "mistral-v3": Style(_listed("[TOOL_CALLS]", ""), ("[TOOL_CALLS]", "[/TOOL_CALLS]")),
    "mistral-v7": Style(
        lambda calls: "".join(f"[TOOL_CALLS]{name}[ARGS]{_json(values)}" for name, values in calls),
        ("[TOOL_CALLS]", "[ARGS]"),
        ("[THINK]", "[/THINK]"),
    ),
    "nemotron-nano": Style(_listed("<TOOLCALL>", "</TOOLCALL>"), ("<TOOLCALL>", "</TOOLCALL>")),
    "granite-3": Style(_listed("<|tool_call|>", ""), ("<|tool_call|>", "<|end_of_text|>")),
    "qwen-3-coder": Style(lambda calls: "\n".join(map(_QWEN, calls))),
    "deepseek-r1": Style(_r1, ("<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")),
    "deepseek-r1-no-text": Style(_r1, ("<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>")),
    "deepseek-v3.1": Style(_v3, ("<｜tool▁calls▁begin｜>", "<｜tool▁call▁end｜>"), text=("", "")),
    "kimi-k2": Style(_kimi, ("<|tool_calls_section_begin|>", "<|tool_call_end|>")),
    "glm-4": Style(lambda calls: "\n".join(map(_GLM, calls))),
    "minimax-m2": Style(
        lambda calls: f"<minimax:tool_call>\n{''.join(map(_MINIMAX, calls))}</minimax:tool_call>",
        ("<minimax:tool_call>", "</minimax:tool_call>"),
    ),
    "gemma-4": Style(
        lambda calls: "".join(f"<|tool_call>call:{name}{_gemma(values)}<tool_call|>" for name, values in calls),
        ("<|tool_call>", "<tool_call|>"),
        ("<|channel>thought\n", "\n<channel|>"),
    ),
    "gpt-oss": Style(
        _harmony,
        ("<|channel|>", "<|call|>"),
        HARMONY_THOUGHT,
        ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant"),
    ),
}

PARIS: Call = ("get_weather", {"city": "Paris"})
CODE = "def f(x):\n    if x < 1:\n        return [x, {'a': 1}]\n\n    return \"</b>\\n\"\n"


@dataclass(frozen=True)
class Reply:
    """A reply and its parts: ("reasoning", text), ("text", text) or ("call", name, arguments).

    Arguments are a dictionary, or the text of some that are cut or not valid. `faults` is how many calls failed.
    """

    name: str
    text: str
    parts: tuple[tuple[Any, ...], ...]
    faults: int = 0


def replies(name: str) -> Iterator[Reply]:
    """Yield the replies of a format."""
    style = STYLES[name]
    opened, closed = style.tags
    yield from _with_calls(style)
    yield from _with_values(style)
    for title, text in {
        "plain text": "It is warm in Paris.\n\nAnything else?\n",
        "brackets": "Use a[0] < b or {x} | <b>bold</b> [link](url) < >\n",
        "a tag in backticks": f"A call begins with `{opened}` and ends with `{closed}`.",
        "a tag in quotes": f'Write "{opened}" first.',
        "JSON": '{"name": "Bob", "age": 3}',
        "a list": '[{"city": "Paris"}]',
        "blank": " \n",
        "nothing": "",
    }.items():
        yield Reply(title, text, (("text", text),) if text else ())


def _with_calls(style: Style) -> Iterator[Reply]:
    one, before, after = style.calls([PARIS]), *style.text
    thought, end = style.thought
    opened, _ = style.tags
    made = ("call", *PARIS)
    yield Reply("one call", one, (made,))
    yield Reply("line breaks around a call", f"\n\n{one}\n", (made,))
    if style.bare:
        yield Reply("text before a call", f"Let me see.\n{opened}{one}", (("text", "Let me see."), made))
        line = style.calls([PARIS]) + "\n" + style.calls([("now", {})])
        yield Reply("a call a line", line, (made, ("call", "now", {})))
        yield Reply("a call in a code block", f"```json\n{one}\n```", (made,))
        unknown = style.calls([("no_such_tool", {"x": "y"})])
        yield Reply("an unknown tool is JSON", unknown, (("text", unknown),))
    else:
        yield Reply("text before a call", f"{before}Let me see.{after}{one}", (("text", "Let me see."), made))
        yield Reply(
            "a tag in backticks, then a call", f"{before}A `{opened}`:{after}{one}", (("text", f"A `{opened}`:"), made)
        )
        yield Reply("text in two lines", f"{before}Let me\nsee:{after}{one}", (("text", "Let me\nsee:"), made))
        unknown = style.calls([("no_such_tool", {"x": "y"})])
        yield Reply("an unknown tool", unknown, (("call", "no_such_tool", {"x": "y"}),))
    yield Reply("a thought before a call", f"{thought}Where?{end}{one}", (("reasoning", "Where?"), made))
    spoken = f"I can write `{opened}` or {opened} to call."
    yield Reply("a tag in a thought", f"{thought}{spoken}{end}{one}", (("reasoning", spoken), made))
    several = [PARIS, ("now", {}), ("get_weather", {"city": "Oslo", "days": 2})]
    yield Reply("two calls", style.calls(several[::2]), tuple(("call", *call) for call in several[::2]))
    yield Reply("three calls", style.calls(several), tuple(("call", *call) for call in several))
    yield Reply("no arguments", style.calls([("now", {})]), (("call", "now", {}),))
    if "channel" not in opened:
        tagged = f"{opened}{one}" if style.bare else one
        complete = f"{thought}I call it.\n{tagged}"
        yield Reply("a call at the end of an open thought", complete, (("reasoning", "I call it.\n"), made))
        quoted = f"I could write\n{tagged}\nbut do not."
        spoken = f"{thought}{quoted}{end}No."
        yield Reply("a call within a thought", spoken, (("reasoning", quoted), ("text", "No.")))
    cut = one[: one.index("Paris") + 3]
    yield Reply("cut in the arguments", cut, (("call", "get_weather", '{"city": "Par'),))
    cut = one[: one.index("get_weather") + 5]
    yield Reply("cut in the name", cut, (("text", cut),), 0 if style.bare else 1)


def _with_values(style: Style) -> Iterator[Reply]:
    opened, closed = style.tags
    values: Mapping[str, dict[str, Any]] = {
        "nested values": {"city": "Paris", "details": {"a": [1, {"b": None}], "c": {}}, "tags": ["x", "y, z"]},
        "unicode": {"city": "巴黎 🗼 «Ñandú»", "tags": ["雨", "☀️"]},
        "quotes": {"city": 'the "Big" \\ city\'s', "note": "a\tb"},
        "line breaks": {"city": "one\n  two\n\nthree"},
        "numbers": {"city": "x", "days": -3, "ratio": 1.5e-7, "exact": True},
        "an integer as a number": {"city": "x", "ratio": 2, "exact": False},
        "an empty text": {"city": "", "days": 0},
        "a text like a number": {"city": "12"},
        "a text like a list": {"city": "[1, 2"},
        "null": {"city": "x", "note": None},
        "any type": {"city": "x", "anything": {"k": [1.5, "a"]}},
        "empty collections": {"city": "x", "tags": [], "details": {}},
        "a long text": {"city": "a long text, and more. " * 20},
        "markup": {"city": "<b>x</b> & [y] {z} <"},
    }
    if opened != "<|channel|>":
        values = {**values, "tags in a text": {"city": f"a {opened} b {closed} c"}}
    for title, arguments in values.items():
        yield Reply(title, style.calls([("get_weather", arguments)]), (("call", "get_weather", arguments),))
    code = {"path": "a.py", "content": CODE}
    yield Reply("code", style.calls([("write_file", code)]), (("call", "write_file", code),))


_R1_CALL = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>now\n```json\n{}\n```<｜tool▁call▁end｜>"
_MADE = ("call", *PARIS)
_NOW = ("call", "now", {})

UNUSUAL: Mapping[str, Sequence[tuple[str, tuple[tuple[Any, ...], ...], int]]] = {
    "qwen-3": [
        ('<tool_call>{"name": "now"}</tool_call>', (_NOW,), 0),
        ('<tool_call>{"name": "now", "arguments": null}</tool_call>', (_NOW,), 0),
        ('<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>', (_MADE,), 0),
        ('<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>', (_MADE,), 0),
        ('<tool_call>{"type": "function", "function": {"name": "now", "arguments": {}}}</tool_call>', (_NOW,), 0),
        ('<tool_call>\n{"name": "now", "arguments": {}\n</tool_call>', (_NOW,), 0),
        ('<tool_call>\n{"name": "now", "arguments": {}}}\n</tool_call>', (_NOW,), 0),
        ('<tool_call>\n{"name": "now", "arguments": {}, }\n</tool_call>', (_NOW,), 0),
        ('<tool_call>\n{"name": "now", "arguments": {}, "id": 7}\n</tool_call>', (_NOW,), 0),
        ('<tool_call>\n{"name": "now", "arguments": {}, "id": ', (_NOW,), 0),
        (
            '<tool_call>\n{"name": "now", "arguments": {}}\n{"name": "now", "arguments": {}}\n</tool_call>',
            (_NOW, _NOW),
            0,
        ),
        ('<tool_call>\n[{"name": "now", "arguments": {}}, {"name": "now"}]\n</tool_call>', (_NOW, _NOW), 0),
        ('<tool_call>\n{"name": "now", "arguments": {}}', (_NOW,), 0),
        ('<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>\n\nDone.', (_NOW, ("text", "Done.")), 0),
        ('{"name": "now", "arguments": {}}', (_NOW,), 0),
        ('```json\n{"name": "now", "arguments": {}}\n```', (_NOW,), 0),
        ('{"name": "now"}', (("text", '{"name": "now"}'),), 0),
        (
            '<think>x\n<tool_call>{"name": "other", "arguments": {}}</tool_call>',
            (("reasoning", 'x\n<tool_call>{"name": "other", "arguments": {}}</tool_call>'),),
            0,
        ),
        ("<tool_call>\nnow()\n</tool_call>", (("text", "<tool_call>\nnow()\n</tool_call>"),), 1),
        ('<tool_call>{"name": " ", "arguments": {}}', (("text", '<tool_call>{"name": " ", "arguments": {}}'),), 1),
        ('<tool_call>\n{"name": ""}\n</tool_call>', (("text", '<tool_call>\n{"name": ""}\n</tool_call>'),), 1),
        *(
            (text, (("text", text),), 1)
            for text in (
                f'<tool_call>{{"name": "{"x" * 300}", "arguments": {{}}}}</tool_call>',
                '<tool_call>{"name": "\\q", "arguments": {}}</tool_call>',
                '<tool_call>{"name": "now", "extra": {"city": "Par',
                '<tool_call>{"name": "now", "extra": , "arguments": {}}</tool_call>',
                '<tool_call>{"name": "now", "extra":',
            )
        ),
        (
            '<tool_call>{"name": "now", "arguments": [1]}',
            (("text", '<tool_call>{"name": "now", "arguments": [1]}'),),
            1,
        ),
        (
            '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Par}\n</tool_call>\n'
            '<tool_call>\n{"name": "now", "arguments": {}}\n</tool_call>',
            (("call", "get_weather", '{"city": "Par}'), _NOW),
            1,
        ),
        (
            '<tool_call>{"name": "get_weather", "arguments": {"city": Paris}}</tool_call>',
            (("call", "get_weather", '{"city": Paris}'),),
            1,
        ),
        (
            '<tool_call>{"name": "get_weather", "arguments": {"city": "a\nb"}}</tool_call>',
            (("call", "get_weather", {"city": "a\nb"}),),
            0,
        ),
    ],
    "llama-3": [
        ('<|python_tag|>get_weather.call(city="Paris")', (_MADE,), 0),
        (
            '<|python_tag|>get_weather.call(city="a (b)", tags=["c)"])',
            (("call", "get_weather", {"city": "a (b)", "tags": ["c)"]}),),
            0,
        ),
        ("<|python_tag|>now.call()", (_NOW,), 0),
        ("<|python_tag|>other.call()", (("text", "<|python_tag|>other.call()"),), 1),
        ("<|python_tag|>get_weather.call(city=here)", (("text", "<|python_tag|>get_weather.call(city=here)"),), 1),
        (
            f'<|python_tag|>get_weather.call(city=f"{")" * 70}")',
            (("text", f'<|python_tag|>get_weather.call(city=f"{")" * 70}")'),),
            1,
        ),
        ('{"type": "function", "name": "now", "parameters": {}}', (_NOW,), 0),
        ('{"function": "now", "parameters": {}}', (_NOW,), 0),
        ('[{"name": "now", "parameters": {}}, {"name": "now", "parameters": {}}]', (_NOW, _NOW), 0),
    ],
    "mistral-v3": [
        (
            '[TOOL_CALLS] [{"name": "now", "arguments": {}, "id": "abc"}, {"name": "now", "arguments": {}}]',
            (_NOW, _NOW),
            0,
        ),
        ('[TOOL_CALLS][{"name": "now", "arguments": {}}, {"na', (_NOW, ("text", ', {"na')), 1),
    ],
    "mistral-v7": [
        ("[TOOL_CALLS]now[CALL_ID]123456789[ARGS]{}", (_NOW,), 0),
        ('[TOOL_CALLS][{"name": "now", "arguments": {}}]', (_NOW,), 0),
        ("[TOOL_CALLS]now{}", (("text", "[TOOL_CALLS]now{}"),), 1),
    ],
    "deepseek-r1-no-text": [
        (f"{_R1_CALL}<｜tool▁calls▁end｜>", (_NOW,), 0),
        (f"<｜tool▁calls▁begin｜>{_R1_CALL}\n{_R1_CALL}", (_NOW, _NOW), 0),
        (f"<｜tool▁calls▁begin｜>\n{_R1_CALL}<｜tool▁calls▁end｜>\nDone.", (_NOW, ("text", "Done.")), 0),
    ],
    "kimi-k2": [
        ("<|tool_call_begin|>now:3<|tool_call_argument_begin|>{}<|tool_call_end|>", (_NOW,), 0),
        ("<|tool_call_begin|>now:3<|tool_call_argument_begin|><|tool_call_end|>", (_NOW,), 0),
    ],
    "qwen-3-coder": [
        ("<function=now>\n</function>\n</tool_call>", (_NOW,), 0),
        ("<tool_call><function=get_weather><parameter=city>Paris</parameter></function></tool_call>", (_MADE,), 0),
        ("<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n", (_MADE,), 0),
        (
            "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</function>\n</tool_call>\n"
            "<tool_call>\n<function=now>\n</function>\n</tool_call>",
            (_MADE, _NOW),
            0,
        ),
        (
            "<tool_call>\n<function=get_weather>\n<parameter=city>\n\n  x\n\n</parameter>\n<parameter=exact>\nTrue\n"
            "</parameter>\n<parameter=tags>\n['a', 'b']\n</parameter>\n</function>\n</tool_call>",
            (("call", "get_weather", {"city": "\n  x\n", "exact": True, "tags": ["a", "b"]}),),
            0,
        ),
        (
            "<tool_call>\n<function=write_file>\n<parameter=content>\nEnd with </parameter> and\n</function>.\n"
            "</parameter>\n</function>\n</tool_call>",
            (("call", "write_file", {"content": "End with </parameter> and\n</function>."}),),
            0,
        ),
        ("<tool_call>\n<function=get_weather>\n<parameter=ci", (("call", "get_weather", "{"),), 0),
        (
            f"<tool_call>\n<function=get_weather>\n<parameter={'x' * 300}>\nParis\n</parameter>\n",
            (("call", "get_weather", "{"), ("text", f"{'x' * 300}>\nParis\n</parameter>\n")),
            1,
        ),
        ("<tool_call>\n<function=now>\nsoon", (("text", "<tool_call>\n<function=now>\nsoon"),), 1),
    ],
    "glm-4": [("<tool_call>now</tool_call>", (_NOW,), 0), ("<tool_call>now\n</tool_call>\n", (_NOW,), 0)],
    "gemma-4": [
        ('<|tool_call>call:get_weather{city:"Paris"}<tool_call|>', (_MADE,), 0),
        ("<|tool_call>call:get_weather{city:Paris}<tool_call|>", (_MADE,), 0),
        ("<|tool_call>call:now{}", (_NOW,), 0),
    ],
    "gpt-oss": [
        (" to=functions.now<|channel|>commentary json<|message|>{}", (_NOW,), 0),
        ("<|channel|>commentary to=functions.now<|message|>{}<|call|>", (_NOW,), 0),
        ("<|channel|>final<|message|>Warm.<|return|>", (("text", "Warm."),), 0),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>commentary<|message|>b<|end|>"
            "<|start|>assistant<|channel|>analysis<|message|>c<|end|><|start|>assistant<|channel|>commentary "
            "to=functions.now <|constrain|>json<|message|>{}<|call|>",
            (("reasoning", "a"), ("text", "b"), ("reasoning", "\n\nc"), _NOW),
            0,
        ),
        (
            "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>final<|message|>b",
            (("reasoning", "a"), ("text", "b")),
            0,
        ),
    ],
}
"""Replies as models write them now and then, with their parts and the number of faults."""
