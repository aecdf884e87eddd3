"""Chat templates of models: turn a list of messages into the text that a model was trained to continue."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from modules.catalog.record import ModelRecord
from modules.chat.errors import NoDefaultTemplate, TemplateRefused, TemplateStopped
from modules.chat.features import RenderAll, TemplateFeatures, probe, with_known_markers
from modules.chat.image_parts import marked_in, probe_images
from modules.chat.mending import mend
from modules.chat.message import Message
from modules.chat.next_turn import probe_next_turn
from modules.chat.renderer import LimitExceeded, Renderer, Rendering
from modules.chat.template_notes import ALPACA_NOTE, adaptations, origin_note
from modules.chat.template_variables import TemplateVariable, probe_variables
from modules.core.errors import LANGUAGES, OptionError, Unsupported, WebUIError, Words
from modules.core.events import Info, Json, Note
from modules.core.reasoning import KNOWN_MARKERS
from modules.core.recent import Recent

T = TypeVar("T")

ALPACA = """\
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
"""The template for models without one: the Alpaca format, which many of them were trained on."""
ALPACA_STOPS = ("\n\n### Instruction:", "### Instruction:", "\n\n### Response:", "### Response:")
"""What a model writes in this format when it goes on after its answer."""

_REMEMBERED_TEMPLATES = 32
MOST_VARIANTS = 64
"""Renderings of one request of `render_all`: together they must keep within the limits of one."""
_CONTINUED_TEXT_ENDS = "ContinuedTextEndsHere"
REASONING_NAMES = ("reasoning_content", "thinking", "reasoning")
"""Keys of messages under which their thoughts may be."""
_NOTED = "chat_template"
_NEXT_TURN = "next turn"
"""The name by which `ChatTemplates.probed` remembers it."""
_RESERVED = ("messages", "add_generation_prompt")
"""Variables of a template that a request states by other means."""


@dataclass(frozen=True)
class ModelTemplate:
    """The chat templates of one model, as far as they are known.

    `source` is the template for plain conversations; `named` are the model's other ones. `special_tokens` are texts
    such as that of "bos_token"; the value of additional ones may be a list. `origin` is "model", "chosen" for one that
    was chosen for this model, whose name is `file`, "flag" for the file of --chat-template-file, or "settings" for that
    of settings.yaml. `file` names no folder, as guests see it, and receipts. `fault` is why a chosen template cannot be
    used. `variables` are what else the template reads.
    """

    model: str
    source: str
    named: Mapping[str, str] = field(default_factory=dict)
    special_tokens: Mapping[str, Json] = field(default_factory=dict)
    origin: str = "model"
    file: str = ""
    fault: WebUIError | None = None
    variables: Mapping[str, Json] = field(default_factory=dict)

    @staticmethod
    def of(record: ModelRecord, info: Info | None = None) -> ModelTemplate:
        """Return the template of a model, given what its engine says if it is loaded."""
        source = (info.chat_template if info else "") or record.chat_template
        header = record.header.special_tokens if record.header else {}
        tokens = {name: text for name, text in (info.special_tokens if info else {}).items() if text}
        return ModelTemplate(record.name, source, record.named_templates, {**header, **tokens})

    @property
    def is_ours(self) -> bool:
        """Whether the model has no template, so that the Alpaca format is used."""
        return not self.source and not self.named and self.fault is None

    def for_tools(self, tools: Json) -> str:
        """Return the source for a conversation with these `tools`, None if without.

        Raises NoDefaultTemplate, or the template's fault.
        """
        if self.fault is not None:
            raise self.fault
        if tools is not None and "tool_use" in self.named:
            return self.named["tool_use"]
        if not self.source and self.named:
            raise NoDefaultTemplate(self.model, ", ".join(sorted(self.named)))
        return self.source or ALPACA


@dataclass
class _Probed:
    """Holds what a template can take, once it has been probed. The lock is held while its first user probes it."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    features: TemplateFeatures | None = None
    variables: tuple[TemplateVariable, ...] | None = None
    more: dict[str, Any] = field(default_factory=dict)


class ChatTemplates:
    """Renders the templates of all models, in processes of their own, and knows what they can take. Thread-safe.

    `choose` returns the template to be used instead of a model's own, or that one.
    """

    def __init__(self, choose: Callable[[ModelTemplate], ModelTemplate] | None = None) -> None:
        self._choose = choose
        self._renderer = Renderer()
        self._probed: Recent[str, _Probed] = Recent(_REMEMBERED_TEMPLATES)
        self._lock = threading.Lock()

    def render(
        self,
        template: ModelTemplate,
        messages: Sequence[Message],
        *,
        continue_last: bool = False,
        generation_prompt: bool = True,
        template_kwargs: Mapping[str, Json] | None = None,
    ) -> str:
        """Return the prompt for the next answer, or with `continue_last` the one that continues the last message.

        Without `generation_prompt` it is the conversation alone.

        A last message with thoughts and no text is continued within its thoughts.
        `template_kwargs` are further variables of the template, such as enable_thinking. Raises TemplateRefused, with
        the template's own message, if it refuses the messages or is broken; TemplateStopped if it exceeds a limit; and
        NoDefaultTemplate.
        """
        kwargs = dict(template_kwargs or {})
        for name in _RESERVED:
            if name in kwargs:
                expected = {"en": f"no {name}, which the request itself states", "zh": f"不含 {name}（由请求本身决定）"}
                raise OptionError("chat_template_kwargs", name, expected)
        source = template.for_tools(kwargs.get("tools"))
        common = _common(template) | kwargs
        features = self._features(source, template)

        def rendered(shown: Sequence[Message], prompt: bool) -> str:
            variables = _variables(shown, features, prompt)
            with_images = self._render_images(source, template, common, variables)
            return self._render(source, common, variables, template.model) if with_images is None else with_images

        if continue_last and ends_in_thought(messages[-1]):
            return _continued_thought(messages, rendered(messages[:-1], True), features)
        if continue_last:
            return _continued(messages, rendered, template.model)
        return rendered(messages, generation_prompt)

    def render_all(
        self,
        template: ModelTemplate,
        conversations: Sequence[tuple[Sequence[Message], bool]],
        template_kwargs: Mapping[str, Json] | None = None,
    ) -> list[Rendering]:
        """Render many conversations, each with or without the generation prompt, faster than one by one.

        A rendering that the template refused has an `error`. Raises TemplateStopped or NoDefaultTemplate.
        """
        kwargs = dict(template_kwargs or {})
        source = template.for_tools(kwargs.get("tools"))
        features, common = self._features(source, template), _common(template) | kwargs
        variants = [_variables(messages, features, prompt) for messages, prompt in conversations]
        return self._render_variants(source, common, variants, template.model)

    def render_together(self, template: ModelTemplate, conversations: Sequence[Sequence[Message]]) -> list[Rendering]:
        """Render the prompts for the next answers to conversations without pictures, by one request.

        Raises TemplateStopped if all of them together exceed a limit, or NoDefaultTemplate.
        """
        source = template.for_tools(None)
        features = self._features(source, template)
        variants = [_variables(messages, features, True) for messages in conversations]
        return self._render_at_once(source, _common(template), variants, template.model)

    def _render_variants(
        self, source: str, common: Mapping[str, Json], variants: Sequence[Mapping[str, Json]], model: str
    ) -> list[Rendering]:
        """Render all of `variants`, in smaller groups if together they exceed a limit. Raises TemplateStopped."""
        if len(variants) <= MOST_VARIANTS:
            try:
                return self._render_at_once(source, common, variants, model)
            except TemplateStopped:
                if len(variants) == 1:
                    raise
        middle = len(variants) // 2
        halves = (variants[:middle], variants[middle:])
        return [text for half in halves for text in self._render_variants(source, common, half, model)]

    def _render_images(
        self, source: str, template: ModelTemplate, common: Mapping[str, Json], variables: Mapping[str, Json]
    ) -> str | None:
        """Return the prompt with the marks of pictures where the template puts these, None if it takes no pictures."""
        messages = variables["messages"]
        numbers = marked_in(messages)
        form = self.probed(source, template, "images", probe_images) if numbers else None
        if form is None:
            return None
        with contextlib.suppress(TemplateRefused):
            parts = {**variables, "messages": form.with_parts(messages)}
            return form.with_marks(self._render(source, common, parts, template.model), numbers)
        return None

    def image_text(self, template: ModelTemplate) -> str:
        """Return what a template writes for a picture, "" if it takes none. Raises what `features` raises."""
        form = self.probed(template.for_tools(None), template, "images", probe_images)
        return form.text if form else ""

    def of(self, record: ModelRecord, info: Info | None = None) -> ModelTemplate:
        """Return the template that conversations with a model use, given what its engine says if it is loaded."""
        own = ModelTemplate.of(record, info)
        return self._choose(own) if self._choose else own

    def own(self, record: ModelRecord, info: Info | None = None) -> ModelTemplate:
        """Return the template of the model's files, whether or not another one was chosen for it."""
        return ModelTemplate.of(record, info)

    def features(self, template: ModelTemplate) -> TemplateFeatures:
        """Return what the model's template can take. Raises TemplateStopped or NoDefaultTemplate."""
        return self._features(template.for_tools(None), template)

    def variables(self, template: ModelTemplate) -> tuple[TemplateVariable, ...]:
        """Return the known variables that the model's template reads. Raises what `features` raises."""
        source = template.for_tools(None)
        features, known = self._features(source, template), self._known(source)
        with self._probing(known, source, template) as render:
            if known.variables is None:
                known.variables = probe_variables(render, features.system, features.parts)
            return known.variables

    def probed(
        self, source: str, template: ModelTemplate, name: str, probe: Callable[[RenderAll, TemplateFeatures, str], T]
    ) -> T:
        """Return what `probe` finds out by renderings of one of a template's sources; it is remembered by `name`.

        Raises what `features` raises.
        """
        features, known = self._features(source, template), self._known(source)
        if name not in known.more:
            with self._probing(known, source, template) as render:
                if name not in known.more:
                    known.more[name] = probe(render, features, source)
        found: T = known.more[name]
        return found

    def next_turn(self, template: ModelTemplate) -> str:
        """Return what the template puts between an answer and the next question. Raises what `features` raises."""
        return self.probed(template.for_tools(None), template, _NEXT_TURN, probe_next_turn)

    def is_probed(self, template: ModelTemplate) -> bool:
        """Whether `features` and `next_turn` of a template for plain conversations are known."""
        if template.fault is not None or (template.named and not template.source):
            return False
        with self._lock:
            probed = self._probed.get(template.source or ALPACA)
        return probed is not None and probed.features is not None and _NEXT_TURN in probed.more

    def notes(self, template: ModelTemplate) -> tuple[Note, ...]:
        """Return what a user should know of the model's template: that it is missing, unusable, or takes less."""
        if template.is_ours:
            return (Note(_NOTED, ALPACA_NOTE),)
        if template.fault is not None:
            return (Note(_NOTED, _in_all_languages(template.fault)),)
        try:
            words = adaptations(self.features(template))
        except (NoDefaultTemplate, TemplateStopped) as error:
            words = _in_all_languages(error)
        notes = (origin_note(template.origin, template.file), words)
        return tuple(Note(_NOTED, note) for note in notes if note)

    def close(self) -> None:
        """End the processes that are idle."""
        self._renderer.close()

    def _render_at_once(
        self, source: str, common: Mapping[str, Json], variants: Sequence[Mapping[str, Json]], model: str
    ) -> list[Rendering]:
        """Render all of `variants` by one request. Raises TemplateStopped."""
        try:
            return self._renderer.render(source, common, variants)
        except LimitExceeded as error:
            raise TemplateStopped(model, error.limit) from None

    def _render(self, source: str, common: Mapping[str, Json], variables: Mapping[str, Json], model: str) -> str:
        (rendering,) = self._render_at_once(source, common, [variables], model)
        if rendering.error:
            raise TemplateRefused(model, rendering.error, rendering.line)
        return rendering.text

    def _features(self, source: str, template: ModelTemplate) -> TemplateFeatures:
        known = self._known(source)
        if known.features is None:
            with self._probing(known, source, template) as render:
                known.features = known.features or with_known_markers(probe(render), source)
        return known.features

    def _known(self, source: str) -> _Probed:
        """Return what is known of a template."""
        with self._lock:
            known = self._probed[source] = self._probed.get(source) or _Probed()
        return known

    @contextlib.contextmanager
    def _probing(self, known: _Probed, source: str, template: ModelTemplate) -> Iterator[RenderAll]:
        """Yield a function that renders a template. Others who probe it wait meanwhile. Raises TemplateStopped."""
        with known.lock:
            try:
                yield partial(self._renderer.render, source, _common(template))
            except LimitExceeded as error:
                raise TemplateStopped(template.model, error.limit) from None


def _common(template: ModelTemplate) -> dict[str, Json]:
    """Return the variables that every rendering of a template gets."""
    always = {"tools": None, "documents": None, "add_generation_prompt": True}
    return {**always, **template.special_tokens, **template.variables}


def _variables(messages: Sequence[Message], features: TemplateFeatures, prompt: bool) -> dict[str, Json]:
    """Return the variables of one rendering, with or without the generation prompt."""
    return {"messages": _with_aliases(mend(messages, features)), "add_generation_prompt": prompt}


def ends_in_thought(message: Message) -> bool:
    """Return whether the message has thoughts and no text."""
    return bool(reasoning_of(message)) and not message.get("content")


def reasoning_of(message: Message) -> str:
    """Return the thoughts of a message, under whichever name they are."""
    return next((str(message[name]) for name in REASONING_NAMES if message.get(name) is not None), "")


def _continued_thought(messages: Sequence[Message], prompt: str, features: TemplateFeatures) -> str:
    """Return `prompt`, which is for a new answer, with the thought that the last message has begun, byte for byte.

    A thought that the prompt has opened is continued; an empty one that it has closed is replaced.
    """
    markers, start = features.markers or KNOWN_MARKERS[0], features.thought_start or f"{KNOWN_MARKERS[0].open}\n"
    question, found, thought = prompt.rpartition(markers.open)
    if found and thought.strip() == markers.close:
        prompt = question
    elif found and not thought.strip():
        start = ""
    return prompt + start + reasoning_of(messages[-1])


def _continued(messages: Sequence[Message], rendered: Callable[[Sequence[Message], bool], str], model: str) -> str:
    """Return the whole conversation as rendered, up to the end of the last message's text.

    The text of the message ends the prompt byte for byte, even if the template trims it.
    """
    *earlier, last = messages
    text = str(last.get("content", ""))
    marked = rendered([*earlier, {**last, "content": text + _CONTINUED_TEXT_ENDS}], False)
    prompt, found, _ = marked.rpartition(_CONTINUED_TEXT_ENDS)
    if found and text.strip() in prompt:
        return prompt
    # The template changes such a text, for example by taking the thoughts out. It would not be the same text then.
    marked = rendered([*earlier, {**last, "content": _CONTINUED_TEXT_ENDS}], False)
    prompt, found, _ = marked.rpartition(_CONTINUED_TEXT_ENDS)
    if found:
        return prompt + text
    raise Unsupported(
        {
            "en": f"The last message cannot be continued: the chat template of {model} leaves its text out.",
            "zh": f"无法续写最后一条消息：{model} 的聊天模板会略去其内容。",
        }
    )


def _with_aliases(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with their reasoning under each of the names by which templates ask for it."""
    complete: list[Message] = []
    for message in messages:
        reasoning = next((message[name] for name in REASONING_NAMES if message.get(name) is not None), None)
        aliases = {} if reasoning is None else {"reasoning_content": reasoning}
        complete.append({**({"thinking": reasoning} if aliases else {}), **message, **aliases})
    return complete


def _in_all_languages(error: WebUIError) -> Words:
    return {language: error.say(language) for language in LANGUAGES}
