"""Requests and events of OpenAI's API: text completions and chat completions, as many servers imitate it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modules.core import quick_json
from modules.core.events import Json
from modules.engines.served.logprobs import of_chat, of_completion
from modules.engines.served.server_kind import Piece, Read, ServedPrompt, known_counts

COMPLETIONS, CHAT = "/v1/completions", "/v1/chat/completions"
END_OF_STREAM = b"[DONE]"
THOUGHT = ("<think>\n", "\n</think>\n\n")
"""Written around a thought that the server sends apart from the answer."""

_END, _ALIVE = Piece(is_end=True), Piece()
_LENGTHS = frozenset({"length", "max_tokens", "model_length"})
_FAILURES = frozenset({"abort", "content_filter", "error", "insufficient_system_resource"})
_LONGEST_ERROR = 500  # characters
_MESSAGE_FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id")


def stream_fields(model: str) -> dict[str, Json]:
    """Return the fields that every streamed request has."""
    return {"model": model, "stream": True, "stream_options": {"include_usage": True}}


def messages_of(prompt: ServedPrompt) -> list[dict[str, Json]]:
    """Return the messages of a prompt with the fields of OpenAI's API alone."""
    return [{key: message[key] for key in _MESSAGE_FIELDS if key in message} for message in prompt.messages]


def top_logprobs(answer: Json) -> dict[str, float]:
    """Return the log-probabilities of the candidates for the first token of a text completion, by their texts."""
    try:
        listed = answer["choices"][0]["logprobs"]["top_logprobs"][0]
        return {str(text): float(number) for text, number in listed.items()}
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError):
        return {}


def event_of(data: bytes) -> dict[str, Any]:
    """Parse an event, which must be a JSON object. Raises ValueError for anything else."""
    try:
        event = quick_json.decode(data)
    except RecursionError:
        raise ValueError("JSON that is nested too deeply") from None
    if type(event) is not dict:
        raise ValueError("an event that is no object")
    return event


def error_text(event: Mapping[str, Json]) -> str:
    """Return the server's message in an event or a body that reports an error, "" if it reports none."""
    error = event.get("error")
    if not error and event.get("object") == "error":
        error = event
    if not error:
        return ""
    words = error.get("message") if isinstance(error, Mapping) else error
    return str(words or error)[:_LONGEST_ERROR]


def completion_reader(top: int | None) -> Read:
    """Return the reader of a text completion; `top` is the number of candidates, None for no log-probabilities."""

    def read(data: bytes) -> Piece:
        if data == END_OF_STREAM:
            return _END
        event = event_of(data)
        choice = _choice(event)
        if choice is None:
            return _without_choice(event)
        text, ids = choice.get("text") or "", tuple(choice.get("token_ids") or ())
        logprobs = of_completion(choice.get("logprobs"), top, ids) if top is not None else ()
        reason, error = _reason(choice.get("finish_reason"))
        if not isinstance(text, str):
            raise ValueError("text that is no string")
        return Piece(
            text,
            len(ids) or len(logprobs) or int(bool(text)),
            ids,
            tuple(choice.get("prompt_token_ids") or ()) if "prompt_token_ids" in choice else (),
            reason,
            _stop_string(choice) if reason else "",
            logprobs,
            error=error,
            **(_usage(event) if event.get("usage") else {}),
        )

    return read


class ChatReader:
    """Reads a chat completion. A thought that the server sends apart is put into THOUGHT, before the answer."""

    def __init__(self, top: int | None) -> None:
        self._top = top
        self._thinks = False

    def __call__(self, data: bytes) -> Piece:
        if data == END_OF_STREAM:
            return _END
        event = event_of(data)
        choice = _choice(event)
        if choice is None:
            return _without_choice(event)
        delta = choice.get("delta") or {}
        if not isinstance(delta, Mapping):
            raise ValueError("a delta that is no object")
        reason, error = _reason(choice.get("finish_reason"))
        thought = delta.get("reasoning_content") or delta.get("reasoning") or ""
        text = delta.get("content") or delta.get("refusal") or ""
        if not isinstance(text, str) or not isinstance(thought, str):
            raise ValueError("text that is no string")
        listed = choice.get("logprobs")
        logprobs = of_chat(listed.get("content"), self._top) if self._top is not None and listed else ()
        return Piece(
            self.marked(thought, text, bool(reason)),
            len(choice.get("token_ids") or ()) or len(logprobs) or int(bool(text or thought)),
            reason=reason,
            stop_string=_stop_string(choice) if reason else "",
            logprobs=logprobs,
            error=error,
            **(_usage(event) if event.get("usage") else {}),
        )

    def marked(self, thought: str, text: str, ends: bool) -> str:
        """Return what an event adds to the answer, with the marks around the thought where it begins and ends."""
        parts = []
        if thought:
            parts = [thought] if self._thinks else [THOUGHT[0], thought]
            self._thinks = True
        if self._thinks and (text or ends):
            parts.append(THOUGHT[1])
            self._thinks = False
        return "".join((*parts, text))


def _choice(event: Mapping[str, Json]) -> Mapping[str, Json] | None:
    """Return the one choice of an event, None if it has none."""
    choices = event.get("choices")
    if not choices:
        return None
    if type(choices) is not list or type(choices[0]) is not dict:
        raise ValueError("choices that are no list of objects")
    choice: Mapping[str, Json] = choices[0]
    return choice


def _without_choice(event: Mapping[str, Json]) -> Piece:
    """Read an event that has no part of the answer: counts, an error, or a sign of life."""
    if error := error_text(event):
        return Piece(error=error)
    return Piece(**_usage(event)) if event.get("usage") else _ALIVE


def _reason(finish: Json) -> tuple[str, str]:
    """Return the reason for the end in our terms, and the server's error if there is one instead."""
    if not finish:
        return "", ""
    if finish in _FAILURES:
        return "", f"finish_reason: {finish}"
    return ("length" if finish in _LENGTHS else "stop"), ""


def _stop_string(choice: Mapping[str, Json]) -> str:
    """Return the stop string that ended the answer, where the server names it: vLLM, SGLang."""
    matched = choice.get("stop_reason") or choice.get("matched_stop")
    return matched if isinstance(matched, str) else ""


def _usage(event: Mapping[str, Json]) -> dict[str, Any]:
    usage = event.get("usage")
    if not isinstance(usage, Mapping):
        return {}
    details = usage.get("prompt_tokens_details")
    cached = details.get("cached_tokens") if isinstance(details, Mapping) else None
    return known_counts(
        prompt_tokens=usage.get("prompt_tokens"),
        completion_tokens=usage.get("completion_tokens"),
        cached_tokens=cached,
    )
