"""The form that the answer to a chat request must have: JSON of a schema, calls of tools, or either."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from modules.api.schemas import ChatRequest
from modules.chat.prompt import ChatPrompt
from modules.chat.templates import ChatTemplates
from modules.chat.tools.tool import Tool
from modules.chat.tools.use import ToolUse
from modules.core.answer_grammar import LENIENT, AnswerGrammar
from modules.core.events import Json
from modules.core.reasoning import ReasoningMarkers


@dataclass(frozen=True)
class AnswerForm:
    """The grammar of an answer, None for any text. `field` asks for it; `ignored` are fields that it does without."""

    grammar: AnswerGrammar | None = None
    field: str = "response_format"
    ignored: tuple[str, ...] = ()


@dataclass(frozen=True)
class Thought:
    """The thought that an answer begins with: a model without `markers` has none, and `inside` it must end it."""

    markers: ReasoningMarkers | None = None
    inside: bool = False

    @staticmethod
    def of(templates: ChatTemplates, prompt: ChatPrompt) -> Thought:
        """Return that of the answer to a prompt."""
        if prompt.inside:
            return Thought(prompt.markers[0], inside=True)
        own = templates.features(prompt.template).markers if prompt.template else None
        ended = own is not None and prompt.prompt.text.rstrip().endswith(own.close)
        return Thought() if prompt.begun or ended else Thought(own)

    def before(self, answer: AnswerGrammar) -> AnswerGrammar:
        """Return the grammar of `answer` after the thought."""
        if self.markers is None:
            return answer
        rest = [["until", self.markers.close], ["space"]]
        return ["all", *(rest if self.inside else [["maybe", ["all", ["text", self.markers.open], *rest]]]), answer]

    def with_header(self, answer: AnswerGrammar) -> AnswerGrammar:
        """Return the grammar of `answer` after one of the headers that the model may write before it."""
        headers = [["text", header] for header in self.markers.headers] if self.markers else []
        return ["all", ["maybe", ["any", *headers]], ["space"], answer] if headers else answer


def answer_form(request: ChatRequest, use: ToolUse | None, thought: Thought) -> AnswerForm:
    """Return the form of the answers to a request whose tools are used by `use`, None without tools.

    Calls are enforced if one is required. Without a schema for the other answers, an answer that may have calls is any
    text up to the tag that begins a call: as in OpenAI's API, arguments are enforced for strict tools alone.
    """
    schema = None if request.schema is None else thought.with_header(["json", request.schema])
    if use is None or not request.functions:
        return AnswerForm(None if schema is None else thought.before(schema))
    tools = [_enforced(tool) for tool in use.tools if tool.name in request.choice.names]
    calls = use.grammar(tools, request.parallel_tool_calls)
    if request.choice.mode == "required":
        return AnswerForm(thought.before(calls), "tools")
    if schema is not None:
        return AnswerForm(thought.before(["any", calls, schema]), "tools")
    strict = [index for index, tool in enumerate(request.tools) if tool.function and tool.function.strict]
    if not strict and request.parallel_tool_calls:
        return AnswerForm()
    begun = text_then(calls, use.calls.openers)
    if begun is None:
        return AnswerForm(ignored=tuple(f"tools[{index}].function.strict" for index in strict))
    return AnswerForm(thought.before(begun), "tools")


_MORE_PROPERTIES = frozenset({"additionalProperties", "patternProperties", "allOf", "anyOf", "oneOf", "$ref"})
"""Keys of a schema that may allow arguments beside its `properties`."""


def _enforced(tool: Tool) -> Tool:
    """Return the tool with the schema of its arguments that is enforced.

    That of a tool that is not strict is enforced as far as possible. JSON schemas allow any further arguments, of which
    a small model would think up many: without a word about them there are none.
    """
    if tool.strict:
        return tool
    properties = tool.parameters.get("properties")
    lenient = {name: _lenient(schema) for name, schema in properties.items()} if isinstance(properties, dict) else {}
    closed = {} if _MORE_PROPERTIES & tool.parameters.keys() else {"additionalProperties": False}
    return dataclasses.replace(tool, parameters={**tool.parameters, "properties": lenient, LENIENT: True, **closed})


def _lenient(schema: Json) -> Json:
    return {**schema, LENIENT: True} if isinstance(schema, dict) else schema


# -- text before calls -------------------------------------------------------------------------------------------------


def text_then(calls: AnswerGrammar, openers: Sequence[str]) -> AnswerGrammar | None:
    """Return the grammar of any text that may end with `calls`; None if no text that begins them all is known.

    The first of `openers` with which they begin marks a call, or else all of the text that they have in common.
    """
    common = _beginning(calls)
    mark = next((opener for opener in openers if common.startswith(opener)), common.strip())
    if not mark:
        return None
    start = common.index(mark) + len(mark)
    return ["any", ["all", ["until", mark], _without(calls, common[:start])], ["rest"]]


def _beginning(node: AnswerGrammar) -> str:
    """Return the text that begins all that matches a node."""
    kind, *parts = node
    if kind == "text":
        return str(parts[0])
    if kind == "many":
        return _beginning(parts[0])
    if kind == "any":
        return _common_beginning([_beginning(part) for part in parts])
    text = ""
    for part in parts if kind == "all" else ():
        text += _beginning(part)
        if part[0] != "text":
            break
    return text


def _common_beginning(texts: Sequence[str]) -> str:
    first, last = min(texts), max(texts)
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))
    return first[:length]


def _without(node: AnswerGrammar, beginning: str) -> AnswerGrammar:
    """Return the grammar of what follows `beginning`, with which all that matches the node begins."""
    kind, *parts = node
    if kind == "text":
        return ["text", parts[0][len(beginning) :]]
    if kind == "many":
        return ["all", _without(parts[0], beginning), ["maybe", node]]
    if kind == "any":
        return ["any", *(_without(part, beginning) for part in parts)]
    first, *rest = parts
    if first[0] == "text" and len(first[1]) < len(beginning):
        return _without(["all", *rest], beginning[len(first[1]) :])
    return ["all", _without(first, beginning), *rest]
