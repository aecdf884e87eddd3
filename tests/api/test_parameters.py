"""Every field that clients send is honored, without effect, refused, or done without and reported."""

from __future__ import annotations

import json
import time
from itertools import product
from types import SimpleNamespace
from typing import Any, cast

import pytest

from modules.api import parameters, request_fields
from modules.api.schemas import ChatRequest, CompletionRequest, GenerationRequest
from modules.core.errors import OptionError, UnknownOption, Unsupported, WebUIError
from modules.loaders.registry import LOADERS, Loader
from modules.loaders.server_samplers import SERVER_SAMPLERS
from modules.runtime.loaded_model import LoadedModel
from tests.support.client_bodies import sillytavern

LLAMACPP, TRANSFORMERS = LOADERS["llama.cpp"], LOADERS["Transformers"]
TEMPLATE = "{% if enable_thinking %}<think>{% endif %}{{ messages }}"


def loaded(loader: Loader, template: str = "", server: str = "") -> LoadedModel:
    """Return what `parameters` asks of a loaded model, whose samplers may be those of a kind of `server`."""
    info = SimpleNamespace(context_length=4096, chat_template=template)
    samplers, name = (SERVER_SAMPLERS[server], server) if server else (loader.samplers, loader.name)
    record = SimpleNamespace(chat_template="")
    return cast(LoadedModel, SimpleNamespace(samplers=samplers, engine_name=name, info=info, record=record))


def settle(
    fields: dict[str, Any], loader: Loader = LLAMACPP, *, chat: bool = False, strict: bool = False, template: str = ""
) -> tuple[dict[str, Any], list[str]]:
    body = {"messages": [{"role": "user", "content": "Hi"}]} if chat else {"prompt": "Hi"}
    schema: type[GenerationRequest] = ChatRequest if chat else CompletionRequest
    request = schema.model_validate({**body, **fields})
    return parameters.resolve(request, loaded(loader, template), {}, strict)


def changes(fields: dict[str, Any], **how: Any) -> dict[str, Any]:
    """Return the parameters that `fields` change."""
    params, _ = settle(fields, **how)
    neutral, _ = settle({}, chat=how.get("chat", False))
    return {name: value for name, value in params.items() if value != neutral.get(name)}


# -- JSON ------------------------------------------------------------------------------------------------------------

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}
SPELLINGS: tuple[dict[str, Any], ...] = (
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": SCHEMA}}},
    {"response_format": {"type": "json_object", "schema": SCHEMA}},
    {"response_format": {"type": "json_schema", "schema": SCHEMA}},
    {"json_schema": SCHEMA},
    {"guided_json": json.dumps(SCHEMA)},
)


def test_a_schema_is_taken_as_any_server_takes_it(subtests: pytest.Subtests) -> None:
    for fields in SPELLINGS:
        with subtests.test(fields=fields):
            params, _ = settle(fields, chat=True)
            assert params.pop("answer_grammar") == ["json", SCHEMA]
            assert params.pop("grammar_field", "response_format") in fields
            assert params == settle({}, chat=True)[0]


def test_json_object_asks_for_any_object() -> None:
    params, _ = settle({"response_format": {"type": "json_object"}})
    assert params["answer_grammar"] == ["json", {"type": "object"}]


def test_an_invalid_response_format_is_refused(subtests: pytest.Subtests) -> None:
    for response_format in (
        {"type": "json_schema"},
        {"type": "regex"},
        {"type": "json_schema", "json_schema": {"schema": [SCHEMA]}},
        {"type": "json_schema", "json_schema": {"schema": "[" * 40_000}},
        {"type": "json_schema", "json_schema": {"schema": '{"items": ' * 300 + "true" + "}" * 300}},
        {"type": "json_object", "schema": {"enum": ["x" * 70_000]}},
    ):
        with subtests.test(response_format=str(response_format)[:80]), pytest.raises(OptionError) as error:
            settle({"response_format": response_format})
        assert error.value.option == "response_format"


def test_a_schema_beside_a_grammar_is_refused() -> None:
    with pytest.raises(OptionError, match="guided_json"):
        settle({"guided_json": SCHEMA, "grammar": 'root ::= "a"'})


# -- honored ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens", "max_new_tokens", "n_predict", "num_predict"])
@pytest.mark.parametrize("chat", [False, True])
def test_the_limit_of_tokens_has_many_names_and_minus_one_means_none(name: str, chat: bool) -> None:
    assert changes({name: 7}, chat=chat) == {"max_new_tokens": 7}
    assert changes({name: 100_000}, chat=chat) == {"max_new_tokens": 100_000}
    assert changes({name: -1}, chat=chat) == {"max_new_tokens": 0}
    for invalid in (-3, "many", True, 0.5):
        with pytest.raises(OptionError, match=name):
            settle({name: invalid}, chat=chat)


def test_of_several_limits_the_newest_name_of_openai_counts() -> None:
    assert changes({"max_tokens": 1, "n_predict": 2, "max_completion_tokens": 3}) == {"max_new_tokens": 3}


@pytest.mark.parametrize(
    ("fields", "changed"),
    [
        ({"typical": 0.5}, {"typical_p": 0.5}),
        ({"rep_pen": 1.2}, {"repetition_penalty": 1.2}),
        ({"repeat_penalty": 1.2, "repetition_penalty": 1.1}, {"repetition_penalty": 1.1}),
        ({"rep_pen_range": 64}, {"repetition_penalty_range": 64}),
        ({"repeat_last_n": -1}, {"repetition_penalty_range": 0}),
        ({"repeat_last_n": 0, "repeat_penalty": 1.3}, {"repetition_penalty_range": 0}),  # llama.cpp's "no token"
        ({"mirostat": 2}, {"mirostat_mode": 2}),
        ({"nsigma": 1.5}, {"top_n_sigma": 1.5}),
        ({"top_n_sigma": -1, "top_k": -1}, {}),
        ({"sampler_seed": 5}, {"seed": 5}),
        ({"seed": 2**63 - 1}, {"seed": (2**63 - 1) % (2**32 - 1)}),
        ({"seed": -9}, {}),
        ({"seed": 7.0, "logprobs": 2.0}, {"seed": 7, "top_logprobs": 2}),
        ({"ignore_eos": True}, {"ban_eos_token": True}),
        ({"stopping_strings": ["a", ""], "stop": None}, {"stop": ["a"]}),
        ({"stop": "b", "stopping_strings": ["a"]}, {"stop": ["b"]}),
        ({"stop": ""}, {}),
        ({"stop": [""]}, {}),
        ({"stop": []}, {}),
        ({"temperature": 1, "dynatemp_range": 0.5}, {
            "temperature": 1.0, "dynamic_temperature": True, "dynatemp_low": 0.5, "dynatemp_high": 1.5
        }),
        ({"dynatemp_range": 0}, {}),
        ({"grammar": 'root ::= "a"'}, {"grammar_string": 'root ::= "a"', "grammar_field": "grammar"}),
        ({"n_probs": 3}, {"top_logprobs": 3}),
        ({"n_probs": 0}, {}),
        ({"logprobs": False}, {}),
        ({"logit_bias": [[5, False], [6, 1.5]]}, {"logit_bias": [[5, -100], [6, 1.5]]}),
        ({"custom_token_bans": [1, 2]}, {"custom_token_bans": "1,2"}),
        ({"dry_sequence_breakers": '["\\n", ":"]'}, {"dry_sequence_breakers": '"\\n", ":"'}),
        ({"custom_stopping_strings": ["", "x"]}, {"custom_stopping_strings": '"x"', "stop": ["x"]}),
    ],
)  # fmt: skip
def test_names_and_values_of_other_servers_are_honored(fields: dict[str, Any], changed: dict[str, Any]) -> None:
    assert changes(fields) == changed


def test_a_chat_reads_candidates_and_continuing_by_their_other_names() -> None:
    assert changes({"n_probs": 3}, chat=True) == {"top_logprobs": 3}
    fields = {"continue_final_message": True, "add_generation_prompt": False}
    request = ChatRequest.model_validate({"messages": [{"role": "assistant", "content": "Once"}], **fields})
    assert request.continue_
    assert parameters.resolve(request, loaded(LLAMACPP), {})[1] == []


@pytest.mark.parametrize("fields", [{"rep_pen": 99}, {"typical": "x"}, {"stopping_strings": 5}, {"n_probs": 21}])
def test_an_error_names_the_field_as_the_client_wrote_it(fields: dict[str, Any]) -> None:
    with pytest.raises(OptionError) as refused:
        settle(fields)
    assert refused.value.option == next(iter(fields))


# -- asking for nothing ----------------------------------------------------------------------------------------------

TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": TOOLS, "tool_choice": "none"},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": False},
        {"n": 1.0, "response_format": {}},
        {"response_format": {"type": "text"}, "json_schema": {}, "guided_json": ""},
        {"skew": 0, "rep_pen_slope": 1, "banned_strings": [], "num_ctx": 4096, "min_keep": 0},
        {"adaptive_target": -0.01, "adaptive_decay": 0.9, "dry_penalty_last_n": 64},
        {"user": "me", "cache_prompt": True, "id_slot": -1, "chat_id": "1", "client_metadata": {}},
        {"negative_prompt": "unused without a guidance scale", "mirostat_tau": 3, "xtc_threshold": 0.2},
        {"n": 3, "best_of": 3},
        {"add_generation_prompt": True, "stream_options": {}, "logit_bias": []},
        {"stream_options": {"include_usage": None, "continuous_usage_stats": False}},
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_fields_that_ask_for_nothing_are_accepted(fields: dict[str, Any], strict: bool) -> None:
    _, ignored = settle(fields, chat=True, strict=strict)
    assert ignored == []


@pytest.mark.parametrize(
    "fields",
    [
        {"functions": [{"name": "f"}]},
        {"tools": [{"type": "web_search"}]},
        {"guided_regex": "a+"},
        {"skew": 0.5},
        {"banned_strings": ["x"]},
        {"image_data": [{"data": "", "id": 1}]},
        {"images": [""]},
        {"dry_penalty_last_n": 64, "dry_multiplier": 0.8},
        {"add_generation_prompt": False},
        {"num_beams": 4},
        {"smoothing_factor": 0.3},
    ],
)
def test_a_missing_feature_is_refused_by_name(fields: dict[str, Any]) -> None:
    with pytest.raises(Unsupported, match=next(iter(fields))):
        settle(fields, chat=True)


def test_a_request_cannot_enlarge_the_context() -> None:
    with pytest.raises(OptionError, match=r"num_ctx: 8192 .*at most 4096"):
        settle({"num_ctx": 8192})


# -- unknown ---------------------------------------------------------------------------------------------------------

FOREIGN = (
    *("opts", "id", "name", "foo", "session", "models", "mode", "samplers", "options", "system"),
    *("provider", "route", "transforms", "timings_per_token", "n_keep", "think", "thinking", "include_reasoning"),
    *("stop_token_ids", "prompt_logprobs", "truncate_prompt_tokens", "watermark", "template", "messages", "character"),
)


@pytest.mark.parametrize("name", FOREIGN)
def test_an_unknown_field_is_done_without_and_reported(name: str) -> None:
    assert settle({name: 1})[1] == [name]
    with pytest.raises(UnknownOption):
        settle({name: 1}, strict=True)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("temperatur", "temperature"), ("Temperature", "temperature"), ("top-p", "top_p"), ("topp", "top_p"),
        ("max_token", "max_tokens"), ("maxTokens", "max_tokens"), ("sedd", "seed"), ("stops", "stop"),
        ("presence_penality", "presence_penalty"), ("rep_penn", "rep_pen"), ("streem", "stream"), ("tool", "tools"),
    ],
)  # fmt: skip
def test_a_misspelled_name_is_refused(name: str, meant: str) -> None:
    with pytest.raises(UnknownOption) as refused:
        settle({name: 1})
    assert (refused.value.name, refused.value.nearest) == (name, meant)


def test_a_field_of_the_other_endpoint_is_no_misspelling() -> None:
    assert settle({"enable_thinking": False, "reasoning_effort": "low", "top_logprobs": 2})[1] == [
        "enable_thinking",
        "reasoning_effort",
        "top_logprobs",
    ]
    assert settle({"echo": False, "prompt": "x"}, chat=True)[1] == ["echo", "prompt"]


def test_what_is_done_without_inside_other_fields_is_reported_by_its_path() -> None:
    said = {"role": "assistant", "content": "Hi", "reasoning_content": "Hm", "annotations": [{}], "refusal": None}
    messages = [{"role": "user", "content": "Hi", "opts": {"x": 1}, "name": "Ann", "id": 7}, said, said | {"audio": {}}]
    fields = {"messages": messages, "stream_options": {"continuous_usage_stats": True, "x": False}}
    expected = ["stream_options.continuous_usage_stats", "messages[0].opts", "messages[0].id"]
    assert settle(fields, chat=True)[1] == [*expected, "messages[1].annotations", "messages[2].annotations"]
    assert settle(fields, chat=True, strict=True)[1] != []  # in messages nothing is ever refused


@pytest.mark.parametrize(
    ("fields", "ignored"),
    [
        ({"reasoning_effort": "none"}, []),
        ({"reasoning_effort": "high"}, ["reasoning_effort"]),
        ({"enable_thinking": False}, []),
        ({"chat_template_kwargs": {"enable_thinking": False, "enable": 1}}, ["chat_template_kwargs.enable"]),
    ],
)
def test_variables_that_the_chat_template_does_not_use_are_reported(fields: dict[str, Any], ignored: list[str]) -> None:
    assert settle(fields, chat=True, template=TEMPLATE)[1] == ignored


def test_an_order_of_samplers_is_reported_where_the_loader_has_its_own() -> None:
    fields = {"sampler_priority": ["top_k", "adaptive_p", "temperature"], "temperature_last": True}
    assert settle(fields)[1] == ["temperature_last", "sampler_priority"]
    assert settle(fields, TRANSFORMERS)[1] == []
    with pytest.raises(Unsupported):
        settle(fields, strict=True)
    with pytest.raises(OptionError):
        settle({"sampler_priority": ["top_q"]})


# -- SillyTavern -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loader", sorted(LOADERS))
@pytest.mark.parametrize("tavern", ["ooba", "llamacpp", "aphrodite", "tabby", "koboldcpp"])
def test_sillytavern_is_answered_by_every_loader(tavern: str, loader: str) -> None:
    samplers, fields = LOADERS[loader].samplers, sillytavern(tavern)
    if "dynamic_temperature" not in samplers:  # the recorded user has switched it on, which must not be ignored
        with pytest.raises(Unsupported, match="dynamic_temperature"):
            settle(fields, LOADERS[loader])
        fields = {**fields, "dynamic_temperature": False}
    params, ignored = settle(fields, LOADERS[loader])
    assert (params["max_new_tokens"], params["repetition_penalty"], params["stop"]) == (300, 1.2, ["\nYou:"])
    orders = {"sampler_priority", "temperature_last", "samplers", "sampler_order"}
    lacking = {"repetition_penalty_range"} - samplers
    assert set(ignored) - orders == {"include_reasoning", *lacking}


def test_no_error_is_anything_but_a_sentence() -> None:
    values = (None, True, -1, 10**400, 1.5, "", "x", [], [1], [[]], [[1, 2]], {}, {"a": 1}, [{}])
    for name in sorted({*request_fields.NAMES, *CompletionRequest.model_fields, *ChatRequest.model_fields}):
        for value, chat in product(values, (False, True)):
            try:
                settle({name: value}, chat=chat)
            except WebUIError as error:
                assert error.status == 400
                assert error.say("zh")
                assert error.say("en")


def test_many_unknown_fields_are_reported_at_once() -> None:
    names = [f"field_{number}_{'x' * 1000}" for number in range(5000)]
    start = time.perf_counter()
    assert settle(dict.fromkeys(names, 1))[1] == names
    assert time.perf_counter() - start < 1


def test_what_a_server_lacks_is_refused_by_name_unless_it_is_neutral(subtests: pytest.Subtests) -> None:
    def settled(server: str, **fields: Any) -> dict[str, Any]:
        request = CompletionRequest.model_validate({"prompt": "Hi", **fields})
        return parameters.resolve(request, loaded(LLAMACPP, server=server), {})[0]

    for server, fields in {"openai": {"min_p": 0.0}, "ollama": {"top_n_sigma": 0}, "vllm": {"typical_p": 1}}.items():
        with subtests.test("neutral", server=server):
            assert settled(server, **fields)
    for server, name, value in [
        *(("openai", "min_p", 0.05), ("openai", "top_k", 40), ("ollama", "logit_bias", {"5": 1}), ("vllm", "tfs", 0.9)),
        *(("ollama", "grammar_string", 'root ::= "a"'), ("sglang", "xtc_probability", 0.5)),
    ]:
        with subtests.test("refused", server=server, name=name), pytest.raises(Unsupported, match=f"{server}.*{name}"):
            settled(server, **{name: value})
    schema = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}}
    assert settled("openai", response_format=schema)["answer_grammar"] == ["json", {"type": "object"}]
