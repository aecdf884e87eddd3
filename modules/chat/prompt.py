"""Build the prompt of a loaded model from a conversation or a text, for the page and the API alike."""

from __future__ import annotations

import dataclasses
import itertools
import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from modules.chat.errors import ImageLeftOut, ImagesUnsupported
from modules.chat.message import Message
from modules.chat.reasoning_markers import reasoning_markers
from modules.chat.stop_strings import template_stops
from modules.chat.templates import ALPACA_STOPS, ChatTemplates, ModelTemplate, ends_in_thought, reasoning_of
from modules.core.errors import Unsupported, Words
from modules.core.events import Done, Json
from modules.core.image_marks import marked_numbers
from modules.core.prompt import SYSTEM_ROLES, Image, Prompt, Replacement
from modules.core.reasoning import ReasoningMarkers, ReasoningParser
from modules.runtime.loaded_model import LoadedModel

LONG_TOKEN = 16
"""Bytes. A text with more bytes than this for each token that it may have is not worth encoding."""
MOST_CANDIDATES = 64
"""Shorter conversations that are offered to the worker."""
IMAGE_BYTES = 4096
"""Bytes of text that an image is taken for, where prompts are chosen that may fit: its tokens only the worker knows."""
_NEEDS_TEXT: Words = {
    "en": "This server takes conversations as messages only: it can neither write a message of the user nor continue a "
    "thought.",
    "zh": "此服务器只接受消息形式的对话，因此不能代写用户消息，也不能续写思考过程。",
}
HYSTERESIS = 0.75
"""Part of the room that a chat fills after its oldest exchanges were dropped."""


@dataclass(frozen=True)
class PromptForm:
    """How messages become a prompt.

    `render` gets the messages, and whether the last one is to be continued. `template` is the one around the reply,
    which says how it marks its thoughts. `stop` are strings that end the reply. `start_with` is a beginning of the
    reply that comes after what is rendered. `next_turn` returns the text between a reply and the next question.

    A model with `Info.messages` gets messages instead: those of `before` first, and last the beginning `begun` of the
    reply. `needs_text` is a form that it cannot have.
    """

    render: Callable[[Sequence[Message], bool], str]
    template: ModelTemplate
    stop: tuple[str, ...] = ()
    start_with: str = ""
    next_turn: Callable[[], str] = lambda: ""
    before: tuple[Message, ...] = ()
    begun: str = ""
    needs_text: bool = False


@dataclass(frozen=True)
class ChatPrompt:
    """The prompt of a chat, and how to read the reply.

    `starts` has, for each of the prompt's shorter texts, the index of the first message that it keeps apart from system
    messages. `markers`, `inside` and `begun` are those of the reply's `ReasoningParser`. `template` is the one around
    the reply.
    """

    prompt: Prompt
    starts: tuple[int, ...]
    markers: tuple[ReasoningMarkers, ...]
    inside: bool = False
    begun: bool = False
    template: ModelTemplate | None = None

    def parser(self) -> ReasoningParser:
        """Return the parser of the reply. Feed it the text that the reply was to start with first."""
        return ReasoningParser(self.markers, self.inside, self.begun)

    def first_message(self, done: Done) -> int | None:
        """Return the index of the first message that the model got apart from system messages, None if nothing was
        dropped for this reply."""
        return None if done.shortened < 0 else self.starts[done.shortened]


def chat_prompt(
    templates: ChatTemplates,
    model: LoadedModel,
    messages: Sequence[Message],
    params: Mapping[str, Json],
    *,
    continue_last: bool = False,
    start_with: str = "",
    dropped_until: int = 0,
    drop_oldest: bool = True,
    hysteresis: bool = True,
    template_kwargs: Mapping[str, Json] | None = None,
    form: PromptForm | None = None,
    images: tuple[Image, ...] = (),
) -> ChatPrompt:
    """Return the prompt that `model` continues to answer `messages`, or with `continue_last` the last one of them.

    `form` is by default `instruct_form` with `template_kwargs` and `start_with`, the beginning of the reply. The
    messages before the index `dropped_until` are left out, except for system messages and the last question. If the
    prompt is still too long, with `drop_oldest` the worker drops the oldest exchanges until it fits, with `hysteresis`
    until it fills no more than HYSTERESIS of the room, so that the next prompts begin with the same text. A prompt
    that cannot be shortened enough ends the generation with PromptTooLong. `images` are those that `mark_images` has
    returned with `messages`. Raises what `ChatTemplates.render` raises, ImagesUnsupported and ImageLeftOut.
    """
    if images and not model.info.images:
        raise ImagesUnsupported(model.record.name, model.engine_name)
    if continue_last and not reasoning_of(messages[-1]) and not messages[-1].get("content"):
        messages, continue_last = messages[:-1], False
    form = form or instruct_form(templates, model, template_kwargs, start_with)
    kept = _without(messages, _first_kept(messages, dropped_until))
    dropped = len(messages) - len(kept)
    limit = room(model, params)
    text = form.render(kept, continue_last)
    images = _used_images(images, kept, text, model)
    starts: tuple[int, ...] = ()
    if drop_oldest:
        prompt, starts = _shortenable(
            lambda start: (text if not start else form.render(_without(kept, start), continue_last)) + form.start_with,
            kept,
            limit,
            int(limit * HYSTERESIS) if hysteresis else 0,
            form.stop,
        )
    else:
        prompt = Prompt(text + form.start_with, limit, stop=form.stop)
    if model.info.messages:
        prompt = _as_messages(prompt, form, kept, starts, continue_last)
    starts = tuple(start + dropped for start in starts)
    markers, inside = reasoning_markers(templates, form.template, text)
    image_text = templates.image_text(form.template) if images else ""
    prompt = dataclasses.replace(
        prompt, visible=_texts(markers), images=images, image_text=image_text, next_turn=form.next_turn()
    )
    if not continue_last:
        return ChatPrompt(prompt, starts, markers, inside, template=form.template)
    if not ends_in_thought(messages[-1]):
        return ChatPrompt(prompt, starts, (), begun=True, template=form.template)
    return ChatPrompt(prompt, starts, markers, inside=True, begun=True, template=form.template)


def _as_messages(
    prompt: Prompt, form: PromptForm, messages: Sequence[Message], starts: Sequence[int], continue_last: bool
) -> Prompt:
    """Return the prompt for a server that takes messages, the shorter ones of which are those from `starts` on.

    Raises Unsupported for a form that needs text, and for a thought that is to be continued.
    """
    if form.needs_text or (continue_last and ends_in_thought(messages[-1])):
        raise Unsupported(_NEEDS_TEXT)
    sent = [_sendable(message) for message in (*form.before, *messages)]
    begun = form.begun.lstrip() if not continue_last else ""
    if begun:
        sent.append({"role": "assistant", "content": begun})
    shifted = tuple(start + len(form.before) for start in starts)
    return dataclasses.replace(prompt, messages=tuple(sent), starts=shifted, continues=continue_last or bool(begun))


def _sendable(message: Message) -> Message:
    """Return a message as every server takes it: the text of its role, which is "system" for a developer's."""
    content = message.get("content")
    if isinstance(content, list):
        content = "\n".join(str(part.get("text", "")) for part in content)
    role = "system" if message["role"] in SYSTEM_ROLES else message["role"]
    return {"role": role, "content": content or ""}


def _used_images(
    images: tuple[Image, ...], messages: Sequence[Message], text: str, model: LoadedModel
) -> tuple[Image, ...]:
    """Return `images`, those without data that `messages` do not mark. Raises ImageLeftOut unless `text` has them."""
    if not images:
        return ()
    numbers = [number for message in messages for number in marked_numbers(str(message.get("content", "")))]
    if marked_numbers(text) != numbers:
        raise ImageLeftOut(model.record.name)
    return tuple(image if number in numbers else Image(image.id, b"") for number, image in enumerate(images))


class NotRendered(Exception):
    """Raised where a rendering is needed that `rendered_form` does not have."""


def rendered_form(
    templates: ChatTemplates, template: ModelTemplate, messages: Sequence[Message], text: str
) -> PromptForm:
    """Return the form of a model's own `template` that waits for no rendering: it has that of `messages`, `text`.

    Its `render` raises NotRendered for all other messages.
    """

    def render(asked: Sequence[Message], continue_last: bool) -> str:
        if continue_last or asked != messages:
            raise NotRendered
        return text

    stop = ALPACA_STOPS if template.is_ours else ()
    return PromptForm(render, template, stop, next_turn=partial(templates.next_turn, template))


def instruct_form(
    templates: ChatTemplates,
    model: LoadedModel,
    template_kwargs: Mapping[str, Json] | None = None,
    start_with: str = "",
) -> PromptForm:
    """Return the form of the template that is used for `model`."""
    template = templates.of(model.record, model.info)

    def render(messages: Sequence[Message], continue_last: bool) -> str:
        return templates.render(template, messages, continue_last=continue_last, template_kwargs=template_kwargs)

    # A model stops by itself in the format that it was trained on, but perhaps not in another one.
    own = template.origin == "model" and not template.is_ours
    stop = () if own else template_stops(templates, template)
    begin = _space_before(render, start_with) + start_with
    return PromptForm(render, template, stop, begin, partial(templates.next_turn, template), begun=start_with)


def _space_before(render: Callable[[Sequence[Message], bool], str], start_with: str) -> str:
    """Return the space that a template has before an answer, but not at the end of the prompt for one."""
    if not start_with:
        return ""
    question: Message = {"role": "user", "content": "?"}
    prompt = render([question], False)
    with suppress(Unsupported):
        begun = render([question, {"role": "assistant", "content": start_with}], True)
        if begun == f"{prompt} {start_with}":
            return " "
    return ""


def _texts(markers: Sequence[ReasoningMarkers]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(text for one in markers for text in (one.open, one.close, *one.headers)))


def prompt_text(messages: Sequence[Message], form: PromptForm, dropped_until: int = 0) -> str:
    """Return the prompt for an answer to `messages`, before the worker drops any.

    Those before `dropped_until` are left out, as in `chat_prompt`.
    """
    return form.render(_without(messages, _first_kept(messages, dropped_until)), False) + form.start_with


def _shortenable(
    rendered: Callable[[int], str], messages: Sequence[Message], limit: int, target: int, stop: tuple[str, ...]
) -> tuple[Prompt, tuple[int, ...]]:
    """Return the prompt with its shorter texts, and the index of the message from which each of them begins."""
    text = rendered(0)
    if _most_tokens(text) <= limit:
        return Prompt(text, limit, stop=stop), ()
    shorter = _shorter(_starts(messages, text, limit), rendered, target or limit)
    changes = tuple(Replacement.between(text, candidate) for _, candidate in shorter)
    return Prompt(text, limit, shorter=changes, stop=stop, target=target), tuple(start for start, _ in shorter)


def text_prompt(text: str, params: Mapping[str, Json]) -> Prompt:
    """Return the prompt for a text that is no conversation: its last `truncation_length` tokens, if that is not 0."""
    return Prompt(text, int(params["truncation_length"]), truncate=True)


def room(model: LoadedModel, params: Mapping[str, Json]) -> int:
    """Return how many tokens a prompt may have, so that the answer it asks for fits as well."""
    whole = model.info.context_length
    context = min(int(params["truncation_length"]) or whole, whole)
    return context - min(int(params["max_new_tokens"]) or context, context // 2)


def _starts(messages: Sequence[Message], text: str, limit: int) -> list[int]:
    """Return the questions from which a shorter conversation may begin that might just have `limit` tokens.

    Which one it is only the worker knows. Each costs a rendering, so that of very many some are chosen; what fits is
    then at most 5 % shorter than it might be. Their lengths are estimated from that of the whole `text`.
    """
    contents = [_size(str(message.get("content", ""))) for message in messages]
    overhead = max(_size(text) - sum(contents), 0) / len(messages)
    sizes = [size + overhead for size in contents]
    kept = sum(size for size, message in zip(sizes, messages, strict=True) if message["role"] in SYSTEM_ROLES)
    rest = list(itertools.accumulate(reversed(sizes)))[::-1]
    first = next((index for index, one in enumerate(messages) if one["role"] not in SYSTEM_ROLES), 0)
    possible = [(start, kept + rest[start]) for start in _questions(messages) if start > first]
    possible = [(start, size) for start, size in possible if size <= LONG_TOKEN * limit] or possible[-1:]
    if len(possible) <= MOST_CANDIDATES:
        return [start for start, _ in possible]
    ratio = LONG_TOKEN ** (1 / MOST_CANDIDATES)
    chosen = [possible[0]]
    for start, size in possible[1:]:
        if size * ratio <= chosen[-1][1]:
            chosen.append((start, size))
    return list(dict.fromkeys([*(start for start, _ in chosen), possible[-1][0]]))


def _shorter(starts: Sequence[int], rendered: Callable[[int], str], target: int) -> list[tuple[int, str]]:
    """Return the text from each of `starts` on, up to the first that cannot have more than `target` tokens."""
    texts = []
    for start in starts:
        texts.append((start, rendered(start)))
        if _most_tokens(texts[-1][1]) <= target:
            break
    return texts


def _most_tokens(text: str) -> float:
    """Return the most tokens that `text` can have: its bytes, a BOS token, and the space that some tokenizers prepend.

    Tokenizers may normalize the text first, which lengthens it most if characters are decomposed (NFKD). An image has
    any number of tokens.
    """
    if marked_numbers(text):
        return math.inf
    if text.isascii():
        return len(text) + 2
    forms = (text, unicodedata.normalize("NFKD", text))
    return max(map(_bytes, forms)) + 2


def _size(text: str) -> int:
    return _bytes(text) + IMAGE_BYTES * len(marked_numbers(text))


def _bytes(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


def _first_kept(messages: Sequence[Message], dropped_until: int) -> int:
    """Return `dropped_until`, or the index of the last question if that would be dropped."""
    return min(dropped_until, max(_questions(messages), default=0))


def _questions(messages: Sequence[Message]) -> list[int]:
    return [index for index, message in enumerate(messages) if message["role"] == "user"]


def _without(messages: Sequence[Message], start: int) -> list[Message]:
    """Return `messages` from `start` on, and the system messages before."""
    return [message for message in messages[:start] if message["role"] in SYSTEM_ROLES] + list(messages[start:])
