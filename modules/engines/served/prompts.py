"""Prompts for servers: shortened so that they fit the context, and counted only where that is needed."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence

from modules.core.events import Json
from modules.core.prompt import Prompt
from modules.core.worker_errors import GenerationFailed, PromptTooLong, TextTooLong
from modules.engines.prompt_fitting import LONGEST_TOKEN, fit
from modules.engines.served.parameters import missing
from modules.engines.served.server_kind import Answer, ServedPrompt, ServerKind

UNKNOWN_VOCABULARY = 1 << 31
"""Stands for the size of a vocabulary that the server does not tell: it refuses token ids itself."""
_USUAL_MARK = re.compile(r"<\|[^|\s]+\|>|</?s>")
QUICK_CHARACTERS = 20_000
"""Going through a text of this length takes some microseconds."""
_SPECIAL = 2
"""Tokens that a text may have beyond its bytes: BOS, and the space that some tokenizers prepend."""


def served_prompt(whole: Prompt, kind: ServerKind, params: Mapping[str, Json]) -> ServedPrompt:
    """Return what a server gets of a prompt, shortened in its own way if it is too long.

    A text with no more bytes than the prompt may have tokens is not counted, as a token has at least one byte. Where
    the server does not count, tokens are estimated. Raises PromptTooLong, TextTooLong, Unsupported, OptionError, and
    the errors of `Ask`.
    """
    facts = kind.facts
    if whole.images:
        raise missing("images", "图片")
    if whole.messages and facts.messages:
        return _as_messages(whole, _shortened(whole, kind, params))
    if not facts.takes_text:
        raise missing("texts to be continued: it takes conversations only", "续写文本，只接受对话")
    if whole.tokens:
        return _of_ids(whole, kind)
    return _shortened(whole, kind, params)


def is_quick(whole: Prompt, kind: ServerKind, params: Mapping[str, Json]) -> bool:
    """Return whether `served_prompt` needs neither an answer of the server nor a noticeable time."""
    return not whole.tokens and len(whole.text) <= QUICK_CHARACTERS and not _must_count(whole, kind, params)


def measured(whole: Prompt, kind: ServerKind) -> int:
    """Return how many tokens the whole of a prompt has, an estimate where the server does not count.

    Raises TextTooLong, Unsupported for images, and the errors of `Ask`.
    """
    if whole.images:
        raise missing("images", "图片")
    if whole.tokens:
        return len(whole.tokens)
    context = kind.facts.context_length
    if context and len(whole.text) > LONGEST_TOKEN * context:
        raise TextTooLong(len(whole.text), context)
    return len(kind.tokenize(whole.text)) if kind.facts.counts else estimate(whole.text)


def estimate(text: str) -> int:
    """Return about how many tokens a text has, rather too many: three letters, or one of another script."""
    simple = sum(map(str.isascii, text)) if not text.isascii() else len(text)
    return simple // 3 + (len(text) - simple) + _SPECIAL


def _as_messages(whole: Prompt, fitted: ServedPrompt) -> ServedPrompt:
    messages = merged(whole.used_messages(fitted.shortened))
    return dataclasses.replace(fitted, text="", tokens=(), messages=messages, continues=whole.continues)


def merged(messages: Sequence[Mapping[str, Json]]) -> tuple[Mapping[str, Json], ...]:
    """Return messages of which no two of the same role follow each other: many servers' templates refuse those."""
    result: list[Mapping[str, Json]] = []
    for message in messages:
        if result and result[-1]["role"] == message["role"]:
            parts = filter(None, (result[-1]["content"], message["content"]))
            result[-1] = {**message, "content": "\n\n".join(parts)}
        else:
            result.append(message)
    return tuple(result)


def _of_ids(whole: Prompt, kind: ServerKind) -> ServedPrompt:
    if not kind.facts.takes_ids:
        raise missing("prompts of token ids", "词符编号形式的提示词")
    fitted = fit(whole, kind.tokenize, kind.facts.context_length or len(whole.tokens), UNKNOWN_VOCABULARY)
    return ServedPrompt(tokens=tuple(fitted.tokens), length=len(fitted.tokens))


def _shortened(whole: Prompt, kind: ServerKind, params: Mapping[str, Json]) -> ServedPrompt:
    facts = kind.facts
    context = facts.context_length
    limit = whole.limit or context
    if not _must_count(whole, kind, params):
        return ServedPrompt(whole.text)
    if not facts.counts:
        return _estimated(whole, limit)
    fitted = fit(whole, kind.tokenize, context, UNKNOWN_VOCABULARY)
    length = len(fitted.tokens)
    if not whole.limit and context and length > context:
        raise PromptTooLong(length, context)
    if whole.truncate and whole.limit and length == whole.limit and facts.takes_ids:
        return ServedPrompt(tokens=tuple(fitted.tokens), length=length)
    text = whole.text if fitted.shortened < 0 else whole.used_text(fitted.shortened)
    return ServedPrompt(text, shortened=fitted.shortened, length=length)


def _must_count(whole: Prompt, kind: ServerKind, params: Mapping[str, Json]) -> bool:
    """Return whether the tokens of a text must be counted, or estimated, since its bytes do not show that it fits."""
    context = kind.facts.context_length
    limit = whole.limit or context
    size = len(whole.text.encode("utf-8", "surrogatepass")) + _SPECIAL
    answer = int(params["max_new_tokens"])
    is_length_sent = kind.facts.needs_length and (not answer or not context or size + answer > context)
    return is_length_sent or size > limit > 0


def _estimated(whole: Prompt, limit: int) -> ServedPrompt:
    """Return the first text that may have few enough tokens, or the shortest one: the server refuses it itself."""
    if whole.truncate:
        return ServedPrompt(_end_of(whole.text, limit))
    goal = whole.target or limit
    if estimate(whole.text) <= limit or not whole.shorter:
        return ServedPrompt(whole.text)
    for index, change in enumerate(whole.shorter):
        text = change.apply(whole.text)
        if estimate(text) <= goal:
            return ServedPrompt(text, shortened=index)
    last = len(whole.shorter) - 1
    return ServedPrompt(whole.used_text(last), shortened=last)


def _end_of(text: str, limit: int) -> str:
    """Return the end of a text that may have `limit` tokens."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high) // 2
        if estimate(text[middle:]) <= limit:
            high = middle
        else:
            low = middle + 1
    return text[low:]


def without_bos(text: str, bos: str) -> str:
    """Return a text without the BOS token at its beginning, for a server that puts one before every text."""
    return text[len(bos) :] if bos and text.startswith(bos) else text


def is_special(piece: bytes, special_tokens: Mapping[str, Json]) -> bool:
    """Tell whether the text of a token is that of a special one, by the names that are known or usual."""
    text = piece.decode("utf-8", "replace")
    return text in special_tokens.values() or _USUAL_MARK.fullmatch(text) is not None


def ids_of(value: Json) -> list[int]:
    """Return token ids that a server has sent. Raises ValueError for anything else."""
    if not isinstance(value, list) or not all(type(token) is int for token in value):
        raise ValueError("no list of token ids")
    return value


def ids_in(answer: Answer) -> list[int]:
    """Return the tokens in the answer to a request to tokenize. Raises GenerationFailed, or the answer's error."""
    try:
        return ids_of(answer.value.get("tokens"))
    except ValueError as error:
        raise GenerationFailed("server", str(error)) from error
