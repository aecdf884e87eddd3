"""Candidates for the next token, prompts of token ids, and the tokens of a text: alike on every loader."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.core.errors import OptionError
from modules.core.events import Text
from modules.core.prompt import Prompt
from modules.core.worker_errors import GenerationFailed, PromptTooLong
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.support.answers import Crowd, answer, ask, assert_next_tokens_of_a_generation, forget, next_tokens
from tests.support.llama_requests import MAX_ROUNDING, assert_same_answer
from tests.support.worker_pool import WorkerPool

OPTIONS: dict[str, dict[str, object]] = {
    "llama.cpp": {"n_ctx": 512, "parallel": 2, "threads": 1, "threads_batch": 1},
    "Transformers": {},
    "llamacpp_HF": {"n_ctx": 512, "threads": 1, "threads_batch": 1},
}
STORY = "Once upon a time there was a cat who"
DRAWS = 300
"""The tests of the samplers draw more often, without a worker."""


@pytest.fixture(scope="module", params=OPTIONS)
def worker(
    request: pytest.FixtureRequest, tiny: Path, tiny_folder: Path, workers: WorkerPool
) -> Iterator[WorkerProcess]:
    path = tiny_folder if request.param == "Transformers" else tiny
    with workers.lease(path, LOADERS[request.param], **OPTIONS[request.param]) as pooled:
        yield pooled.worker


def ids_of(worker: WorkerProcess, text: str) -> tuple[int, ...]:
    return tuple(ask(worker, "encode", text=text))


def test_the_candidates_are_those_of_a_generation(worker: WorkerProcess) -> None:
    assert_next_tokens_of_a_generation(worker, STORY)


def test_a_greedy_generation_has_one_candidate(worker: WorkerProcess) -> None:
    candidates = next_tokens(worker, STORY, temperature=0)
    token, text, _ = candidates["plain"][0]
    assert candidates["sampled"] == [[token, text, 1.0]]
    (only,) = next_tokens(worker, STORY, temperature=1, grammar_string='root ::= "7"')["sampled"]
    assert only[1:] == ["7", pytest.approx(1)]


def test_a_draw_that_leaves_no_token_is_an_error(worker: WorkerProcess) -> None:
    (seven,) = ids_of(worker, "7")
    with pytest.raises(GenerationFailed, match="leave no token"):
        next_tokens(worker, STORY, grammar_string='root ::= "7"', custom_token_bans=str(seven))
    assert next_tokens(worker, STORY)["sampled"]


def test_first_tokens_are_drawn_as_often_as_their_probabilities_say(worker: WorkerProcess) -> None:
    settings = {"temperature": 0.3, "top_k": 8, "xtc_probability": 0.5, "xtc_threshold": 0.05}
    expected = {token: chance for token, _, chance in next_tokens(worker, STORY, **settings)["sampled"]}
    assert sum(expected.values()) == pytest.approx(1, abs=1e-6)
    crowd = Crowd(worker)
    calls = [crowd.ask(STORY, max_new_tokens=1, top_logprobs=0, seed=seed, **settings) for seed in range(DRAWS)]
    drawn = Counter(token.chosen.id for call in calls for token in crowd.answer(call).logprobs)
    assert sum(drawn.values()) == DRAWS
    assert set(drawn) <= set(expected)
    assert chi_square(drawn, expected) < 4 * len(expected) + 10


def chi_square(drawn: Counter[int], expected: dict[int, float]) -> float:
    return sum((drawn[token] - DRAWS * chance) ** 2 / (DRAWS * chance) for token, chance in expected.items())


def test_going_on_from_a_candidate_is_the_same_as_a_new_prompt_with_it(worker: WorkerProcess) -> None:
    forget(worker)
    first = answer(worker, STORY, max_new_tokens=12, top_logprobs=3, ban_eos_token=True)
    generated = [token.chosen.id for token in first.logprobs]
    other = first.logprobs[5].top[2].id
    tokens = (*ids_of(worker, STORY), *generated[:5], other)
    continued = answer(worker, Prompt("", tokens=tokens), max_new_tokens=12, top_logprobs=0)
    assert continued.done.cached_tokens >= len(tokens) - 2
    forget(worker)
    fresh = answer(worker, Prompt("", tokens=tokens), max_new_tokens=12, top_logprobs=0)
    assert fresh.done.prompt_tokens == len(tokens)
    assert [token.chosen.id for token in continued.logprobs] == [token.chosen.id for token in fresh.logprobs]


def test_the_generated_tokens_have_the_bytes_of_the_text(worker: WorkerProcess) -> None:
    for stops, seed in ((), 1), (("e", "a", " "), 2):
        for text in ("猫", STORY):
            reply = answer(worker, text, stops=stops, top_logprobs=0, temperature=1.5, seed=seed, max_new_tokens=60)
            raw = bytes.fromhex("".join(token.piece for token in reply.logprobs)).decode("utf-8", "replace")
            assert raw == reply.text if not stops else raw.startswith(reply.text)
            assert len(reply.logprobs) >= reply.done.completion_tokens - 1, "all but an end token"


def test_asking_leaves_the_evaluated_prompt_in_the_cache(worker: WorkerProcess) -> None:
    forget(worker)
    next_tokens(worker, STORY)
    assert answer(worker, STORY, max_new_tokens=1).done.cached_tokens == len(ids_of(worker, STORY)) - 1


def test_asking_does_not_disturb_a_running_answer(worker: WorkerProcess) -> None:
    settings: dict[str, Any] = {"max_new_tokens": 200, "ban_eos_token": True, "top_logprobs": 20}
    alone = answer(worker, STORY, **settings)
    crowd = Crowd(worker)
    long = crowd.ask(STORY, **settings)
    crowd.wait(long, Text)
    asked = [next_tokens(worker, f"{number} {STORY}")["plain"] for number in range(3)]
    assert_same_answer(crowd.answer(long), alone)
    for number, plain in enumerate(asked):
        expected = {token: logprob for token, _, logprob in next_tokens(worker, f"{number} {STORY}", top=50)["plain"]}
        assert all(abs(expected[token] - logprob) < MAX_ROUNDING for token, _, logprob in plain)


def test_an_answer_begins_with_the_character_in_which_the_prompt_ends(worker: WorkerProcess) -> None:
    rocket = ask(worker, "encode", text="🚀")
    assert len(rocket) > 1
    *ids, last = (*ids_of(worker, f"{STORY} "), *rocket)
    bias = {str(last): 100}
    reply = answer(worker, Prompt("", tokens=tuple(ids)), max_new_tokens=1, top_logprobs=0, logit_bias=bias)
    assert reply.text == "🚀"
    assert bytes.fromhex("".join(token.piece for token in reply.logprobs)).decode() == "🚀"


def test_the_number_of_candidates_is_checked(worker: WorkerProcess) -> None:
    assert len(next_tokens(worker, STORY, top=200)["sampled"]) == 200
    for count in (0, -1, 201):
        with pytest.raises(OptionError, match="1 to 200 candidates"):
            next_tokens(worker, STORY, top=count)


def test_token_ids_are_checked(worker: WorkerProcess) -> None:
    for tokens in ((5, 49152), (5, -1)):
        with pytest.raises(OptionError, match="token ids from 0 to 49151"):
            answer(worker, Prompt("", tokens=tokens))
    with pytest.raises(PromptTooLong):
        next_tokens(worker, Prompt("", tokens=(5,) * 2048))


TEXT = "né 猫<|im_start|> ok\n"


def test_the_pieces_of_a_text_have_its_bytes(worker: WorkerProcess) -> None:
    pieces = ask(worker, "pieces", text=TEXT)
    assert bytes.fromhex("".join(raw for _, _, raw, _ in pieces)).decode() == TEXT
    assert [token for token, *_ in pieces] == list(ids_of(worker, TEXT))
    assert [text for _, text, _, special in pieces if special] == ["<|im_start|>"]
    fragments = [raw for _, text, raw, _ in pieces if not text]
    assert len(fragments) >= 2
    assert all(_is_whole(raw) == bool(text) for _, text, raw, _ in pieces)


def _is_whole(raw: str) -> bool:
    return "\ufffd" not in bytes.fromhex(raw).decode("utf-8", "replace")
