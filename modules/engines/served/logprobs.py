"""Log-probabilities of tokens in the forms in which servers send them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modules.core.events import Json, Logprob, TokenLogprobs

UNKNOWN_ID = -1
LOWEST = -9999.0
"""Stands for the log-probability of an impossible token, as in OpenAI's API: JSON has no infinity."""


def of_completion(body: Json, top: int, ids: Sequence[int]) -> tuple[TokenLogprobs, ...]:
    """Read the "logprobs" of a choice of a text completion, with `top` candidates a token.

    `ids` are those of the tokens, or empty. Raises ValueError for what cannot be read.
    """
    if not isinstance(body, Mapping):
        return ()
    texts, numbers, tops = body.get("tokens"), body.get("token_logprobs"), body.get("top_logprobs")
    if not isinstance(texts, list) or not isinstance(numbers, list) or len(texts) != len(numbers):
        raise ValueError("logprobs without tokens")
    candidates = tops if isinstance(tops, list) and len(tops) == len(texts) else [None] * len(texts)
    known = ids if len(ids) == len(texts) else [UNKNOWN_ID] * len(texts)
    return tuple(
        _position(Logprob(_text(text), _number(number), token), _by_text(listed), top)
        for text, number, token, listed in zip(texts, numbers, known, candidates, strict=True)
    )


def _by_text(listed: Json) -> list[Logprob]:
    """Read candidates that are an object of log-probabilities by texts."""
    if not isinstance(listed, Mapping):
        return []
    return [Logprob(_text(text), _number(number), UNKNOWN_ID) for text, number in listed.items()]


def of_chat(body: Json, top: int) -> tuple[TokenLogprobs, ...]:
    """Read a list of tokens with "token", "logprob", "bytes" and "top_logprobs", and of some servers "id"."""
    if body is None:
        return ()
    if not isinstance(body, list):
        raise ValueError("logprobs that are no list")
    return tuple(_chat_position(item, top) for item in body)


def _chat_position(item: Json, top: int) -> TokenLogprobs:
    listed = item.get("top_logprobs") if isinstance(item, Mapping) else None
    candidates = [_candidate(one) for one in listed] if isinstance(listed, list) else []
    return _position(_candidate(item), candidates, top, _bytes(item.get("bytes")))


def _candidate(item: Json) -> Logprob:
    if not isinstance(item, Mapping):
        raise ValueError("a candidate that is no object")
    token = item.get("id")
    return Logprob(
        _text(item.get("token")), _number(item.get("logprob")), token if isinstance(token, int) else UNKNOWN_ID
    )


def _position(chosen: Logprob, candidates: Sequence[Logprob], top: int, piece: str | None = None) -> TokenLogprobs:
    best = sorted(candidates, key=lambda candidate: -candidate.logprob)[:top]
    return TokenLogprobs(chosen, tuple(best), chosen.text.encode().hex() if piece is None else piece)


def _bytes(raw: Json) -> str | None:
    """Return bytes as hexadecimal digits, None if there are none."""
    return bytes(raw).hex() if isinstance(raw, list) else None


def _text(text: Json) -> str:
    if not isinstance(text, str):
        raise ValueError("a token that is no text")
    return text


def _number(number: Json) -> float:
    """Return a log-probability; some servers send null, or the lowest number of float32, for an impossible token."""
    if isinstance(number, (int, float)) and number > LOWEST:
        return float(min(number, 0.0))
    return LOWEST
