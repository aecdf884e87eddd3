"""The operation "next" of a llama-server: the candidates for a token, by the model and after the samplers.

See `engines.next_token`. Each is a generation of one token, whose answer lists the candidates before or after the
server's samplers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modules.core.events import Json, Logprob
from modules.core.worker_errors import GenerationFailed
from modules.engines import next_token
from modules.engines.served.logprobs import of_chat
from modules.engines.served.server_kind import Ask

COMPLETION = "/completion"


def candidates(ask: Ask, variants: Sequence[tuple[float, Mapping[str, Json]]], count: int, is_greedy: bool) -> Json:
    """Return what the operation answers.

    `variants` are the bodies of requests and how likely each of these is: XTC acts with a probability. A greedy
    generation has one candidate. Raises GenerationFailed, and the errors of `Ask`.
    """
    plain, chosen = _plain(ask, variants[0][1], count)
    texts = {candidate.id: candidate.text for candidate in plain} | {chosen.id: chosen.text}
    if is_greedy:
        return next_token.result(plain, [(chosen.id, 1.0)], lambda token: texts[token]).value
    chances: dict[int, float] = {}
    for share, body in variants:
        for token, text, chance in _sampled(ask, body, count):
            chances[token] = chances.get(token, 0.0) + share * chance
            texts[token] = text
    likeliest = sorted(chances.items(), key=lambda item: -item[1])[:count]
    return next_token.result(plain, likeliest, lambda token: texts[token]).value


def _plain(ask: Ask, body: Mapping[str, Json], count: int) -> tuple[Sequence[Logprob], Logprob]:
    """Return the candidates by the model, and the token that was sampled."""
    answer = ask(COMPLETION, {**body, "stream": False, "n_predict": 1, "n_probs": count})
    positions = of_chat(_listed(answer.value), count)
    return positions[0].top, positions[0].chosen


def _sampled(ask: Ask, body: Mapping[str, Json], count: int) -> list[tuple[int, str, float]]:
    """Return ids, texts and chances after the samplers."""
    body = {**body, "stream": False, "n_predict": 1, "n_probs": count, "post_sampling_probs": True}
    try:
        first = _listed(ask(COMPLETION, body).value)[0]
        return [
            (int(one["id"]), str(one["token"]), float(min(one["prob"], 1.0)))
            for one in first["top_probs"]
            if one["prob"] > 0
        ]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise GenerationFailed("llama-server", "no candidates for the next token") from error


def _listed(value: Mapping[str, Any]) -> list[Any]:
    listed = value.get("completion_probabilities")
    if not isinstance(listed, list) or not listed:
        raise GenerationFailed("llama-server", "no candidates for the next token")
    return listed
