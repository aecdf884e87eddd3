"""The scores of a text's tokens, as vLLM and SGLang tell them."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from modules.core.errors import OptionError, Unsupported
from modules.core.events import Json
from modules.core.worker_errors import GenerationFailed, PromptTooLong
from modules.engines.loglikelihoods import Loglikelihoods
from modules.engines.served.discovery import KINDS
from modules.engines.served.server_kind import ServerFacts, ServerKind
from tests.support.served_kinds import Canned, CannedServer

TOKENS = [5, 6, 7]


def kind_of(name: str, answers: dict[str, Canned]) -> ServerKind:
    return KINDS[name].make(CannedServer(answers), ServerFacts(name, "m", context_length=9, bos="<s>"))


def vllm_scores(body: Json) -> Json:
    assert body["max_tokens"] == 1 and body["prompt_logprobs"] == 0
    listed = [None, *({str(token): {"logprob": -token / 2}} for token in body["prompt"][1:])]
    return {"choices": [{"prompt_logprobs": listed}]}


def sglang_scores(body: Json) -> Json:
    assert body["return_logprob"] and body["logprob_start_len"] == 0
    listed = [[None if number == 0 else -token / 2, token, None] for number, token in enumerate(body["input_ids"])]
    return {"meta_info": {"input_token_logprobs": listed}}


@pytest.mark.parametrize(
    ("name", "path", "answer"), [("vllm", "/v1/completions", vllm_scores), ("sglang", "/generate", sglang_scores)]
)
def test_the_tokens_of_a_text_are_scored(name: str, path: str, answer: Callable[[Json], Json]) -> None:
    score = kind_of(name, {path: answer}).operations["loglikelihoods"]
    assert Loglikelihoods.from_json(score(TOKENS, 1)).logprobs == (-3.0, -3.5)
    assert Loglikelihoods.from_json(score(TOKENS, 2)).logprobs == (-3.5,)
    for first in (0, 3):
        with pytest.raises(OptionError, match="first"):
            score(TOKENS, first)
    with pytest.raises(PromptTooLong):
        score(list(range(9)), 1)
    with pytest.raises(Unsupported, match="comparison"):
        score(TOKENS, 1, keep="/tmp/x")


def test_scores_that_are_missing_are_an_error_and_no_certainty(subtests: pytest.Subtests) -> None:
    broken: list[Json] = [
        {"choices": []},
        {"choices": [{}]},
        {"choices": [{"prompt_logprobs": [None, {"6": {"logprob": -1}}]}]},
        {"choices": [{"prompt_logprobs": [None, {"6": {"logprob": -1}}, None]}]},
        {"choices": [{"prompt_logprobs": [None, {"6": {"logprob": -1}}, {"8": {"logprob": -1}}]}]},
        {"choices": [{"prompt_logprobs": [None, {"6": {"logprob": None}}, {"7": {"logprob": -1}}]}]},
        {"choices": [{"prompt_logprobs": [None, {"6": {"logprob": float("nan")}}, {"7": {"logprob": -1}}]}]},
        {"choices": [{"prompt_logprobs": [None, {"6": {"logprob": -(10**400)}}, {"7": {"logprob": -1}}]}]},
    ]
    for answer in broken:
        with subtests.test(answer=str(answer)), pytest.raises(GenerationFailed):
            kind_of("vllm", {"/v1/completions": answer}).operations["loglikelihoods"](TOKENS, 1)
    other: Json = {"meta_info": {"input_token_logprobs": [[None, 5, None], [-1, 9, None], [-1, 7, None]]}}
    with pytest.raises(GenerationFailed):
        kind_of("sglang", {"/generate": other}).operations["loglikelihoods"](TOKENS, 1)
