"""Gaps in a text, filled by an engine whose tokens are characters."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from modules.api.infill import InfillRequest, infill_prompt
from modules.app import App
from modules.config import flags
from modules.loaders import generation_settings
from tests.support.say import CONTEXT, FIM, say, say_plan
from tests.support.serving import Server, server_of

BEFORE, AFTER, MIDDLE = map(chr, (FIM.prefix, FIM.suffix, FIM.middle))
PARAMS = generation_settings.resolve({})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    app = App(flags.parse(["--api", "--model-dir", str(tmp_path_factory.mktemp("models"))]))
    app.models.load(say_plan("fim"))
    with server_of(app) as running:
        yield running
    app.models.close()


def infill(server: Server, **body: Any) -> Any:
    url = str(server.http.base_url.copy_with(path="/infill"))
    return server.http.post(url, json=body)


def prompt_of(server: Server, **fields: Any) -> str:
    prompt = infill_prompt(server.app.models.current, InfillRequest.model_validate(fields), PARAMS)
    assert prompt.stop == prompt.visible == FIM.stops
    return "".join(map(chr, prompt.tokens))


def test_the_prompt_of_a_gap_has_the_texts_around_it(server: Server) -> None:
    prompt = prompt_of(server, input_prefix="a = ", input_suffix="\n", prompt="1")
    assert prompt == f"{BEFORE}a = {AFTER}\n{MIDDLE}1"
    extra = [{"filename": "b.py", "text": "b = 2"}, {"text": "c"}]
    prompt = prompt_of(server, input_prefix="a = ", input_suffix="\n", input_extra=extra)
    assert prompt == f"{BEFORE}<|file_sep|>b.py\nb = 2\n<|file_sep|>\nc\na = {AFTER}\n{MIDDLE}"


def test_of_long_texts_the_parts_next_to_the_gap_are_kept(server: Server) -> None:
    prompt = prompt_of(server, input_prefix="x" * CONTEXT + "<", input_suffix=">" + "y" * CONTEXT)
    before, _, after = prompt.partition(AFTER)
    assert len(prompt) == CONTEXT - PARAMS["max_new_tokens"]
    assert before.endswith("x<") and after.startswith(">y") and prompt.endswith(f"y{MIDDLE}")
    assert len(after) == (len(prompt) - 3) // 4 + 1


def test_a_gap_is_filled_whole_and_streamed(server: Server) -> None:
    """The fields are those of llama.vim."""
    body = {
        "input_prefix": say("42"),
        "input_suffix": "\n",
        "input_extra": [],
        "prompt": "",
        "n_predict": 64,
        "stop": [],
        "n_indent": 4,
        "top_k": 40,
        "top_p": 0.9,
        "samplers": ["top_k", "top_p", "infill"],
        "cache_prompt": True,
        "t_max_prompt_ms": 500,
        "t_max_predict_ms": 1000,
        "response_fields": ["content", "timings"],
    }
    whole = infill(server, **body).json()
    assert (whole["content"], whole["stop"], whole["stop_type"], whole["model"]) == ("42", True, "eos", "fim")
    assert (whole["tokens_predicted"], whole["timings"]["predicted_n"]) == (2, 2)
    assert whole["ignored"] == ["n_indent", "samplers", "t_max_prompt_ms", "t_max_predict_ms", "response_fields"]
    lines = infill(server, **body, stream=True).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    assert "".join(event["content"] for event in events) == "42"
    assert [event["stop"] for event in events] == [False, False, True]
    word = infill(server, input_prefix=say("4;2"), stop=[";"]).json()
    assert (word["content"], word["stop_type"], word["stopping_word"]) == ("4", "word", ";")
    limit = infill(server, input_prefix=say("42"), n_predict=1).json()
    assert (limit["content"], limit["stop_type"]) == ("4", "limit")


def test_bad_bodies_are_refused_by_name(server: Server, subtests: pytest.Subtests) -> None:
    for body, param in [
        ({"input_prefix": 5}, "input_prefix"),
        ({"input_extra": [{}]}, "input_extra[0].text"),
        ({"input_extra": [{"text": ""}] * 257}, "input_extra"),
        ({"n": 2}, "n"),
        ({"temperature": 9}, "temperature"),
    ]:
        with subtests.test(body=ascii(body)[:60]):
            response = infill(server, **body)
            assert (response.status_code, response.json()["error"]["param"]) == (400, param)


def test_a_completion_fills_the_gap_before_its_suffix(server: Server) -> None:
    prompts = [say("42"), say("43")]
    choices = server.openai.completions.create(model="any", prompt=prompts, suffix="\nprint(a)", max_tokens=9).choices
    assert [choice.text for choice in choices] == ["42", "43"]
    error = server.refusal("/completions", {"prompt": "a", "suffix": "b", "echo": True})
    assert (error["status"], error["code"]) == (400, "unsupported")
    assert server.refusal("/completions", {"prompt": "a", "suffix": 5})["param"] == "suffix"


def test_a_model_that_fills_no_gaps_is_named(make_app: Callable[..., App]) -> None:
    app = make_app("--api")
    app.models.load(say_plan())
    with server_of(app) as server:
        error = server.refusal("/completions", {"prompt": "a", "suffix": "b"})
        assert (error["status"], error["code"]) == (400, "unsupported")
        assert "suffix is not supported: say was not trained" in error["message"]
        assert "infill is not supported" in infill(server).json()["error"]["message"]
