"""The operation "loglikelihoods" of servers that tell the log-probabilities of a prompt: vLLM and SGLang."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from modules.core.errors import OptionError, Words
from modules.core.events import Json
from modules.core.worker_errors import GenerationFailed, PromptTooLong
from modules.engines.loglikelihoods import Loglikelihoods
from modules.engines.served.parameters import missing
from modules.engines.served.server_kind import Ask, ServerFacts

SECONDS = 600.0
"""Longest wait for the scores of one window of a text."""


def check_window(tokens: Sequence[int], first: int, keep: str, against: str, context: int) -> None:
    """Raise an error unless that is a window of a text that a server can score."""
    if keep or against:
        raise missing("comparisons of distributions", "概率分布的比较")
    if context and len(tokens) >= context:  # one token must be generated after them
        raise PromptTooLong(len(tokens), context - 1)
    if not 0 < first < len(tokens):
        last = len(tokens) - 1
        expected: Words = {"en": f"a number from 1 to {last}", "zh": f"1 到 {last} 之间的数"}
        raise OptionError("first", first, expected)


class VllmScores:
    """Scores by vLLM's `prompt_logprobs`. `model` returns the name that requests carry, which may be a LoRA's."""

    def __init__(self, ask: Ask, facts: ServerFacts, model: Callable[[], str]) -> None:
        self._ask, self._facts, self._model = ask, facts, model

    def loglikelihoods(self, tokens: list[int], first: int, keep: str = "", against: str = "") -> Json:
        """Return the log-probabilities of the tokens from `first` on: see `engine_protocol.Operations`."""
        check_window(tokens, first, keep, against, self._facts.context_length)
        body = {"model": self._model(), "prompt": tokens, "max_tokens": 1, "temperature": 0, "prompt_logprobs": 0}
        choices = self._ask("/v1/completions", body, seconds=SECONDS).value.get("choices")
        listed = choices[0].get("prompt_logprobs") if choices else None
        return scores(listed, tokens, first, lambda position, token: position[str(token)]["logprob"], "vLLM")


class SglangScores:
    """Scores by SGLang's `return_logprob`. `lora` returns the name of the LoRA to use, or ""."""

    def __init__(self, ask: Ask, facts: ServerFacts, lora: Callable[[], str]) -> None:
        self._ask, self._facts, self._lora = ask, facts, lora

    def loglikelihoods(self, tokens: list[int], first: int, keep: str = "", against: str = "") -> Json:
        """Return the log-probabilities of the tokens from `first` on: see `engine_protocol.Operations`."""
        check_window(tokens, first, keep, against, self._facts.context_length)
        body: dict[str, Json] = {
            "input_ids": tokens,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "return_logprob": True,
            "logprob_start_len": 0,
        }
        if lora := self._lora():
            body["lora_path"] = lora
        facts = self._ask("/generate", body, seconds=SECONDS).value.get("meta_info")
        listed = facts.get("input_token_logprobs") if isinstance(facts, dict) else None
        return scores(listed, tokens, first, _checked, "SGLang")


def _checked(position: Json, token: int) -> Json:
    """Return the log-probability of an entry of SGLang, which is [log-probability, id, text]."""
    if position[1] != token:
        raise ValueError("the entry of another token")
    return position[0]


def scores(listed: Json, tokens: Sequence[int], first: int, number: Callable[[Any, int], Json], server: str) -> Json:
    """Return what the operation answers, of the entries that a server lists for all `tokens`.

    Raises GenerationFailed if one is missing: a text without it would look likelier than it is.
    """
    try:
        if len(listed) != len(tokens):
            raise ValueError("entries of other tokens")
        pairs = zip(listed[first:], tokens[first:], strict=True)
        found = [float(number(position, token)) for position, token in pairs]
        if not all(map(math.isfinite, found)):
            raise ValueError("no numbers")
        return Loglikelihoods(found).to_json()
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        raise GenerationFailed(server, "it did not send the log-probabilities of all tokens") from error
