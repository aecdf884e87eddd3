"""From a conversation to a prompt that fits the loaded model. The page and the API both enter here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modules.chat.templates import Message, render
from modules.core.errors import PromptTooLong
from modules.core.events import Json
from modules.runtime.model_manager import LoadedModel


def prompt(
    model: LoadedModel,
    messages: Sequence[Message],
    params: Mapping[str, Json],
    *,
    continue_last: bool = False,
    drop_oldest: bool = False,
) -> str:
    """The text that `model` shall continue to answer `messages`.

    It leaves room for `max_new_tokens`, but for no more than half the context. If it is too long: PromptTooLong, or
    with `drop_oldest` the prompt without as many of the oldest exchanges as it takes; system messages stay.
    """
    limit = room(model, params)
    text = _render(model, messages, continue_last)
    tokens = count(model, text)
    start = 0
    while tokens > limit:
        start = _next_question(messages, start)
        if not drop_oldest or not start:
            raise PromptTooLong(tokens, limit)
        text = _render(model, _without(messages, start), continue_last)
        tokens = count(model, text)
    return text


def count(model: LoadedModel, text: str) -> int:
    """How many tokens `text` has, those that the model puts before any text included."""
    return int(model.ask("count", text=text))


def cut(model: LoadedModel, text: str, params: Mapping[str, Json]) -> str:
    """A prompt that is no conversation: its last `truncation_length` tokens, if it has more and that is asked for."""
    limit = int(params["truncation_length"])
    excess = count(model, text) - limit
    if not limit or excess <= 0:
        return text
    tokens = model.ask("encode", text=text)
    while excess > 0:  # not once for all: what is left is given a BOS again, and a word cut in two may read otherwise
        tokens = tokens[excess:]
        text = str(model.ask("decode", tokens=tokens))
        excess = count(model, text) - limit
    return text


def room(model: LoadedModel, params: Mapping[str, Json]) -> int:
    """How many tokens a prompt may have, so that the answer it asks for fits as well."""
    whole = model.info.context_length
    context = min(int(params["truncation_length"]) or whole, whole)
    return context - min(int(params["max_new_tokens"]) or context, context // 2)


def _render(model: LoadedModel, messages: Sequence[Message], continue_last: bool) -> str:
    template = model.info.chat_template or model.record.chat_template
    return render(template, messages, model.info.bos_token, model.info.eos_token, continue_last)


def _next_question(messages: Sequence[Message], start: int) -> int:
    """Where the exchange after the one that begins at or after `start` begins; 0 if there is none left to drop."""
    questions = [index for index, message in enumerate(messages) if message["role"] == "user"]
    return next((index for index in questions if index > max(start, questions[0])), 0) if questions else 0


def _without(messages: Sequence[Message], start: int) -> list[Message]:
    """`messages` from `start` on, and the system messages before."""
    return [message for message in messages[:start] if message["role"] == "system"] + list(messages[start:])
