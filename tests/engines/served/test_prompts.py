"""Prompts for servers: what is counted, what is dropped, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from modules.core.errors import Unsupported
from modules.core.events import Json
from modules.core.prompt import Image, Prompt, Replacement
from modules.core.worker_errors import PromptTooLong, TextTooLong
from modules.engines.served.discovery import KINDS
from modules.engines.served.prompts import QUICK_CHARACTERS, estimate, is_quick, measured, merged, served_prompt
from modules.engines.served.server_kind import ServedPrompt, ServerFacts, ServerKind
from modules.loaders.generation_settings import resolve
from tests.support.served_kinds import CannedServer

PARAMS = resolve({"max_new_tokens": 10})
TEXT = "one two three four five six seven eight"
SHORTER = tuple(Replacement(0, cut, "") for cut in (4, 14, 24))


def words(body: Json) -> Json:
    """Tokenize by words, with a BOS token."""
    return {"tokens": [1, *range(2, 2 + len(body["prompt"].split()))]}


def vllm(**facts: Any) -> tuple[ServerKind, CannedServer]:
    server = CannedServer({"/tokenize": words})
    known = {"context_length": 100, "counts": True, "takes_ids": True, **facts}
    return KINDS["vllm"].make(server, ServerFacts("vllm", "m", **known)), server


def openai(**facts: Any) -> ServerKind:
    known = {"takes_text": False, "messages": True, **facts}
    return KINDS["openai"].make(CannedServer({}), ServerFacts("openai", "m", **known))


def test_a_text_whose_bytes_fit_is_not_counted() -> None:
    kind, server = vllm()
    assert served_prompt(Prompt(TEXT, 50), kind, PARAMS) == ServedPrompt(TEXT)
    assert served_prompt(Prompt(TEXT), kind, PARAMS) == ServedPrompt(TEXT)
    assert not server.asked


def test_a_prompt_is_quick_if_it_is_short_and_asks_nothing_of_the_server(subtests: pytest.Subtests) -> None:
    prompts = {
        "fits": (Prompt(TEXT, 50), True),
        "perhaps too long": (Prompt(TEXT, 9), False),
        "long": (Prompt("word " * QUICK_CHARACTERS, 6 * QUICK_CHARACTERS), False),
        "token ids": (Prompt("", tokens=(1, 2)), False),
    }
    for name, (prompt, quick) in prompts.items():
        with subtests.test(name):
            kind, server = vllm(context_length=10 * QUICK_CHARACTERS)
            assert is_quick(prompt, kind, PARAMS) is quick
            served_prompt(prompt, kind, PARAMS)
            assert not (quick and server.asked)


def test_a_longer_text_is_counted_and_shortened_by_as_little_as_needed() -> None:
    kind, server = vllm()
    assert served_prompt(Prompt(TEXT, 9), kind, PARAMS) == ServedPrompt(TEXT, length=9)
    assert len(server.asked) == 1
    fitted = served_prompt(Prompt(TEXT, 7, shorter=SHORTER), kind, PARAMS)
    assert fitted == ServedPrompt("four five six seven eight", shortened=1, length=6)
    with pytest.raises(PromptTooLong):
        served_prompt(Prompt(TEXT, 3, shorter=SHORTER), kind, PARAMS)
    with pytest.raises(PromptTooLong):
        served_prompt(Prompt("word " * 300), kind, PARAMS)


def test_a_text_that_may_be_truncated_is_sent_as_its_last_tokens() -> None:
    kind, _ = vllm()
    fitted = served_prompt(Prompt(TEXT, 4, truncate=True), kind, PARAMS)
    assert fitted.tokens == (1, 7, 8, 9), "with the BOS token that every text begins with"
    assert served_prompt(Prompt(TEXT, 9, truncate=True), kind, PARAMS).length == 9


def test_the_length_is_asked_for_where_the_answers_limit_depends_on_it() -> None:
    kind, server = vllm(needs_length=True)
    assert served_prompt(Prompt(TEXT, 50), kind, PARAMS).length == -1
    assert served_prompt(Prompt(TEXT, 50), kind, {**PARAMS, "max_new_tokens": 0}).length == 9
    assert served_prompt(Prompt(TEXT, 50), kind, {**PARAMS, "max_new_tokens": 80}).length == 9
    assert len(server.asked) == 2


def test_where_a_server_does_not_count_tokens_are_estimated() -> None:
    kind = KINDS["ollama"].make(CannedServer({}), ServerFacts("ollama", "m", context_length=100))
    assert served_prompt(Prompt(TEXT, 20), kind, PARAMS).text == TEXT
    fitted = served_prompt(Prompt(TEXT, 12, shorter=SHORTER), kind, PARAMS)
    assert (fitted.text, fitted.shortened) == ("four five six seven eight", 1)
    assert served_prompt(Prompt(TEXT, 5, shorter=SHORTER), kind, PARAMS).shortened == 2, (
        "the shortest; the server decides"
    )
    end = served_prompt(Prompt(TEXT, 5, truncate=True), kind, PARAMS).text
    assert TEXT.endswith(end) and 5 >= estimate(end) > 3
    assert estimate("你好，世界") >= 5


def test_a_conversation_becomes_messages_without_the_oldest() -> None:
    messages = tuple({"role": ("user", "assistant")[n % 2], "content": f"{n}"} for n in range(5))
    system = {"role": "system", "content": "s"}
    whole = Prompt(TEXT, 12, shorter=SHORTER, messages=(system, *messages), starts=(2, 3, 5), continues=True)
    fitted = served_prompt(whole, openai(), PARAMS)
    assert fitted.messages == (system, *messages[2:]) and fitted.shortened == 1 and fitted.continues and not fitted.text
    kind, _ = vllm()
    assert served_prompt(whole, kind, PARAMS).text, "a server that takes text gets text"


def test_messages_of_one_role_after_each_other_are_one() -> None:
    one, two, reply = (
        {"role": role, "content": text} for role, text in (("user", "a"), ("user", "b"), ("assistant", ""))
    )
    assert merged([one, two, reply, one]) == ({"role": "user", "content": "a\n\nb"}, reply, one)


def test_what_a_server_cannot_get_is_refused_by_name() -> None:
    kind, _ = vllm()
    with pytest.raises(Unsupported, match="images"):
        served_prompt(Prompt("x", images=(Image("a", b"1"),)), kind, PARAMS)
    with pytest.raises(Unsupported, match="conversations only"):
        served_prompt(Prompt("x"), openai(), PARAMS)
    with pytest.raises(Unsupported, match="token ids"):
        served_prompt(Prompt("", tokens=(1, 2)), openai(takes_text=True), PARAMS)
    assert served_prompt(Prompt("", tokens=(1, 2)), kind, PARAMS) == ServedPrompt(tokens=(1, 2), length=2)


def test_prompts_are_measured_by_the_server_or_estimated() -> None:
    kind, _ = vllm()
    assert measured(Prompt(TEXT), kind) == 9
    assert measured(Prompt("", tokens=(1, 2)), kind) == 2
    assert measured(Prompt(TEXT), openai()) == estimate(TEXT)
    with pytest.raises(TextTooLong):
        measured(Prompt("x" * 30_000), kind)
