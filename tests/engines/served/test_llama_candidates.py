"""The candidates for the next token, as a llama-server tells them before and after its samplers."""

from __future__ import annotations

from typing import Any

import pytest

from modules.core.errors import OptionError
from modules.core.events import Json
from modules.core.prompt import Prompt
from modules.core.worker_errors import GenerationFailed
from modules.engines.served.discovery import KINDS
from modules.engines.served.server_kind import ServerFacts, ServerKind
from modules.loaders.generation_settings import resolve
from tests.support.served_kinds import Canned, CannedServer


def completion(body: Json) -> Json:
    """Answer as a llama-server does; XTC always removes the likeliest token."""
    assert (body["stream"], body["n_predict"], body["n_probs"]) == (False, 1, 2)
    if body.get("post_sampling_probs"):
        kept = [(6, " b", 1.0)] if body["xtc_probability"] == 1 else [(5, " a", 0.75), (6, " b", 0.25), (7, " c", 0.0)]
        top: list[Json] = [{"id": token, "token": text, "prob": chance} for token, text, chance in kept]
        return {"completion_probabilities": [{"id": 5, "token": " a", "prob": 0.75, "top_probs": top}]}
    plain = [{"id": 5, "token": " a", "logprob": -0.5}, {"id": 6, "token": " b", "logprob": -1.5}]
    return {"completion_probabilities": [{"id": 5, "token": " a", "logprob": -0.5, "top_logprobs": plain}]}


def llama(answer: Canned) -> ServerKind:
    return KINDS["llama-server"].make(CannedServer({"/completion": answer}), ServerFacts("llama-server", "m"))


def after(prompt: Json, **params: Any) -> Json:
    return llama(completion).operations["next"](prompt, resolve(params), 2)


def test_candidates_come_before_and_after_the_samplers() -> None:
    for prompt in ("Hi", Prompt("Hi").to_json()):
        found = after(prompt)
        assert found["plain"] == [[5, " a", -0.5], [6, " b", -1.5]]
        assert found["sampled"] == [[5, " a", 0.75], [6, " b", 0.25]]


def test_a_greedy_generation_has_one_candidate_and_xtc_its_probability() -> None:
    assert after("Hi", temperature=0)["sampled"] == [[5, " a", 1.0]]
    assert after("Hi", xtc_probability=0.5)["sampled"] == [[6, " b", 0.625], [5, " a", 0.375]]


def test_what_cannot_be_answered_is_refused() -> None:
    with pytest.raises(OptionError, match="top"):
        llama(completion).operations["next"]("Hi", resolve({}), 0)
    for answer in ({}, {"completion_probabilities": []}):
        with pytest.raises(GenerationFailed, match="no candidates"):
            llama(answer).operations["next"]("Hi", resolve({}), 2)
    for sampled in ([], [{"id": 5}], [{"id": 5, "top_probs": [{"id": 5, "token": "a", "prob": "x"}]}]):

        def only_plain(body: Json, sampled: Json = sampled) -> Json:
            return {"completion_probabilities": sampled} if body.get("post_sampling_probs") else completion(body)

        with pytest.raises(GenerationFailed, match="no candidates"):
            llama(only_plain).operations["next"]("Hi", resolve({}), 2)
    assert "next" in llama(completion).abilities
