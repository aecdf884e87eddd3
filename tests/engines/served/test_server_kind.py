"""Each kind of server is sent every sampler that it has under its own name, and nothing that it lacks.

llama-server and vLLM were run with these requests. SGLang, Ollama and LM Studio were not: their fields are those of
their documentation and sources.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from modules.core.errors import OptionError, Unsupported
from modules.core.events import Json
from modules.core.lora_errors import LoraRefused, LoraWithoutEffect
from modules.core.worker_errors import GenerationFailed
from modules.engines.served.discovery import KINDS
from modules.engines.served.openai_events import CHAT
from modules.engines.served.server_kind import ServedPrompt, ServerFacts, ServerKind, ServerLora
from modules.loaders.generation_settings import PARAMETERS, resolve
from modules.loaders.server_samplers import SERVER_NAMES, SERVER_SAMPLERS
from tests.support.served_kinds import CannedServer

VALUES: dict[str, Json] = {
    "temperature": 0.83,
    "top_p": 0.91,
    "min_p": 0.03,
    "top_k": 37,
    "typical_p": 0.93,
    "top_n_sigma": 1.5,
    "xtc_threshold": 0.21,
    "xtc_probability": 0.4,
    "repetition_penalty": 1.13,
    "repetition_penalty_range": 77,
    "frequency_penalty": 0.25,
    "presence_penalty": 0.35,
    "dry_multiplier": 0.7,
    "dry_base": 1.6,
    "dry_allowed_length": 3,
    "dry_sequence_breakers": '"x", "\\n"',
    "mirostat_mode": 2,
    "mirostat_tau": 4.5,
    "mirostat_eta": 0.2,
    "seed": 4321,
    "ban_eos_token": True,
    "custom_token_bans": "11,12",
    "min_length": 4,
    "skip_special_tokens": False,
    "max_new_tokens": 9,
}
"""Another value than the default for every sampler that some server has."""

_HUGGING_FACE = {
    "temperature": 0.83,
    "top_p": 0.91,
    "min_p": 0.03,
    "top_k": 37,
    "repetition_penalty": 1.13,
    "frequency_penalty": 0.25,
    "presence_penalty": 0.35,
    "seed": 4321,
    "ignore_eos": True,
    "logit_bias": {"13": 2.5, "11": -100.0, "12": -100.0},
    "min_tokens": 4,
    "skip_special_tokens": False,
    "max_tokens": 9,
    "stop": ["STOP"],
}
_STREAM = {"model": "m", "stream": True, "stream_options": {"include_usage": True}}
_OPENAI = {
    "temperature": 0.83,
    "top_p": 0.91,
    "frequency_penalty": 0.25,
    "presence_penalty": 0.35,
    "seed": 4321,
    "logit_bias": {"13": 2.5, "11": -100.0, "12": -100.0},
    "max_tokens": 9,
    "stop": ["STOP"],
}
EXPECTED: dict[str, tuple[str, dict[str, Json]]] = {
    "vllm": ("/v1/completions", {**_STREAM, **_HUGGING_FACE, "prompt": "Hi", "add_special_tokens": True}),
    "sglang": ("/v1/completions", {**_STREAM, **_HUGGING_FACE, "prompt": "Hi"}),
    "llama-server": (
        "/completion",
        {
            "model": "m",
            "prompt": "Hi",
            "stream": True,
            "cache_prompt": True,
            "samplers": ["penalties", "dry", "top_n_sigma", "top_k", "typ_p", "top_p", "min_p", "xtc", "temperature"],
            "temperature": 0.83,
            "dynatemp_range": 0.0,
            "dynatemp_exponent": 1.0,
            "top_p": 0.91,
            "min_p": 0.03,
            "top_k": 37,
            "typical_p": 0.93,
            "top_n_sigma": 1.5,
            "xtc_threshold": 0.21,
            "xtc_probability": 0.4,
            "repeat_penalty": 1.13,
            "repeat_last_n": 77,
            "frequency_penalty": 0.25,
            "presence_penalty": 0.35,
            "dry_multiplier": 0.7,
            "dry_base": 1.6,
            "dry_allowed_length": 3,
            "dry_penalty_last_n": 77,
            "dry_sequence_breakers": ["x", "\n"],
            "mirostat": 2,
            "mirostat_tau": 4.5,
            "mirostat_eta": 0.2,
            "seed": 4321,
            "ignore_eos": True,
            "logit_bias": [[13, 2.5], [11, False], [12, False]],
            "n_predict": 9,
            "stop": ["STOP"],
        },
    ),
    "text-studio": (
        "/v1/completions",
        {
            **_STREAM,
            **{key: value for key, value in VALUES.items() if key in SERVER_SAMPLERS["text-studio"]},
            "dynamic_temperature": False,
            "dynatemp_low": 1.0,
            "dynatemp_high": 1.0,
            "dynatemp_exponent": 1.0,
            "logit_bias": {"13": 2.5},
            "max_tokens": 9,
            "stop": ["STOP"],
            "prompt": "Hi",
        },
    ),
    "ollama": (
        "/api/generate",
        {
            "model": "m",
            "stream": True,
            "truncate": False,
            "shift": False,
            "raw": True,
            "prompt": "Hi",
            "options": {
                "temperature": 0.83,
                "top_p": 0.91,
                "min_p": 0.03,
                "top_k": 37,
                "typical_p": 0.93,
                "repeat_penalty": 1.13,
                "repeat_last_n": 77,
                "frequency_penalty": 0.25,
                "presence_penalty": 0.35,
                "seed": 4321,
                "num_predict": 9,
                "num_ctx": 2048,
                "stop": ["STOP"],
            },
        },
    ),
    "lm-studio": ("/v1/completions", {**_STREAM, **_OPENAI, "prompt": "Hi", "top_k": 37, "repeat_penalty": 1.13}),
    "openai": ("/v1/completions", {**_STREAM, **_OPENAI, "prompt": "Hi"}),
}


def kind_of(name: str, server: CannedServer | None = None, **facts: Any) -> ServerKind:
    known = {"context_length": 2048, **facts}
    return KINDS[name].make(server or CannedServer({}), ServerFacts(name, "m", **known))


def params(values: dict[str, Json] | None = None, **more: Any) -> dict[str, Json]:
    return resolve(values or {}, **more)


@pytest.mark.works("samplers", loader="Remote")
@pytest.mark.works("samplers", loader="vLLM")
def test_every_sampler_arrives_under_the_name_that_the_server_knows(subtests: pytest.Subtests) -> None:
    asked = params(VALUES, stops=["STOP"], logit_bias={"13": 2.5})
    for name, (path, body) in EXPECTED.items():
        with subtests.test(name):
            request = kind_of(name).request(ServedPrompt("Hi"), asked)
            assert request.path == path and dict(request.body) == body
            json.dumps(request.body)  # it can be sent


def test_every_sampler_that_is_declared_changes_the_request(subtests: pytest.Subtests) -> None:
    switches = {"dynatemp": {"dynamic_temperature": True}}
    special = {
        "dynamic_temperature": True,
        "dynatemp_low": 0.4,
        "dynatemp_high": 1.9,
        "dynatemp_exponent": 1.4,
        "grammar_string": 'root ::= "a"',
        "do_sample": False,
        "add_bos_token": False,
    }
    for name, samplers in SERVER_SAMPLERS.items():
        kind = kind_of(name)
        for key in sorted(samplers & PARAMETERS.keys()):
            on = switches.get(key.partition("_")[0], {})
            plain = kind.request(ServedPrompt("Hi"), params(on)).body
            other = kind.request(ServedPrompt("Hi"), params({**on, key: special.get(key, VALUES.get(key))})).body
            with subtests.test(name, key=key):
                assert plain != other, "it would be ignored in silence"


def test_what_a_server_lacks_is_not_sent(subtests: pytest.Subtests) -> None:
    plain = params(VALUES)
    for name, samplers in SERVER_SAMPLERS.items():
        kind = kind_of(name)
        for key in sorted(PARAMETERS.keys() & VALUES.keys() - samplers - {"max_new_tokens"}):
            with subtests.test(name, key=key):
                without = {**plain, key: resolve({})[key]}
                assert kind.request(ServedPrompt("Hi"), plain).body == kind.request(ServedPrompt("Hi"), without).body


def test_every_kind_has_a_name_and_declares_its_samplers() -> None:
    assert KINDS.keys() == SERVER_SAMPLERS.keys() == SERVER_NAMES.keys()
    assert all(kind_of(name).samplers == samplers for name, samplers in SERVER_SAMPLERS.items())


CHOICE = {"anyOf": [{"type": "object", "x-lenient": True}, {"type": "null"}]}
NUMBER = {"type": "integer", "x-lenient": True}
SCHEMA = {"type": "object", "properties": {"a": NUMBER, "b": CHOICE}, "x-lenient": True}
CLEAN = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"anyOf": [{"type": "object"}, {"type": "null"}]}},
}


def test_a_json_schema_is_enforced_by_each_server_in_its_own_words(subtests: pytest.Subtests) -> None:
    thought = ["maybe", ["all", ["text", "<think>"], ["until", "</think>"], ["space"]]]
    fields: dict[str, Json] = {
        "llama-server": {"json_schema": CLEAN},
        "ollama": {"format": CLEAN},
        "lm-studio": {"response_format": {"type": "json_schema", "json_schema": {"name": "answer", "strict": True}}},
    }
    fields["text-studio"] = fields["lm-studio"]
    fields["lm-studio"]["response_format"]["json_schema"]["schema"] = CLEAN
    fields["openai"] = fields["lm-studio"]
    plain = {**params(), "answer_grammar": ["json", SCHEMA]}
    assert kind_of("vllm").request(ServedPrompt("Hi"), plain).body["structured_outputs"] == {"json": CLEAN}
    assert kind_of("sglang").request(ServedPrompt("Hi"), plain).body["json_schema"] == json.dumps(CLEAN)
    for name, expected in fields.items():
        for tree in (["json", SCHEMA], ["all", thought, ["json", SCHEMA]]):
            with subtests.test(name, tree=tree[0]):
                request = kind_of(name).request(ServedPrompt("Hi"), {**params(), "answer_grammar": tree})
                assert {key: request.body[key] for key in expected} == expected


def test_a_form_of_answers_that_is_no_schema_is_refused_by_the_field_that_asks_for_it(
    subtests: pytest.Subtests,
) -> None:
    call = ["all", ["text", "<tool_call>"], ["json", SCHEMA], ["text", "</tool_call>"]]
    for name in KINDS.keys() - {"vllm", "sglang"}:
        with subtests.test(name), pytest.raises(Unsupported, match="tools is not supported by this server"):
            kind_of(name).request(ServedPrompt("Hi"), {**params(), "answer_grammar": call, "grammar_field": "tools"})


def test_other_forms_of_answers_go_as_structural_tags_where_they_are_known() -> None:
    asked = {**params(), "answer_grammar": ["all", ["text", "<call>"], ["json", SCHEMA]]}
    elements = [{"type": "const_string", "value": "<call>"}, {"type": "json_schema", "json_schema": CLEAN}]
    tag = {"type": "structural_tag", "format": {"type": "sequence", "elements": elements}}
    sent = kind_of("vllm").request(ServedPrompt("Hi"), asked).body["structured_outputs"]
    assert json.loads(sent["structural_tag"]) == tag
    assert kind_of("sglang").request(ServedPrompt("Hi"), asked).body["response_format"] == tag


def test_grammars_go_to_the_servers_that_take_them() -> None:
    asked, gbnf = params({"grammar_string": 'root ::= "a"'}), 'root ::= "a"'
    assert kind_of("vllm").request(ServedPrompt("Hi"), asked).body["structured_outputs"] == {"grammar": gbnf}
    assert kind_of("sglang").request(ServedPrompt("Hi"), asked).body["ebnf"] == gbnf
    assert kind_of("llama-server").request(ServedPrompt("Hi"), asked).body["grammar"] == gbnf


def test_a_conversation_is_sent_as_messages_and_continued_where_that_is_possible(subtests: pytest.Subtests) -> None:
    messages = ({"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hel"})
    prompt = ServedPrompt(messages=messages, continues=True)
    for name in KINDS:
        with subtests.test(name):
            if name in ("openai", "lm-studio"):
                with pytest.raises(Unsupported, match="Continue"):
                    kind_of(name).request(prompt, params())
                continue
            request = kind_of(name).request(prompt, params())
            assert request.path == ("/api/chat" if name == "ollama" else CHAT)
            assert request.body["messages"] == list(messages) and "prompt" not in request.body
            assert name == "ollama" or request.body["continue_final_message"] is True
    plain = kind_of("openai").request(ServedPrompt(messages=messages[:1]), params()).body
    assert plain["messages"] == [messages[0]] and "continue_final_message" not in plain


def test_no_text_gets_a_second_bos_token() -> None:
    prompt = ServedPrompt("<s>Hi")
    body = kind_of("vllm", bos="<s>").request(prompt, params()).body
    assert (body["prompt"], body["add_special_tokens"]) == ("<s>Hi", False)
    assert kind_of("vllm", bos="<s>").request(ServedPrompt("Hi"), params()).body["add_special_tokens"] is True
    for name in ("sglang", "llama-server", "ollama"):
        assert kind_of(name, bos="<s>").request(prompt, params()).body["prompt"] == "Hi", name
        assert kind_of(name).request(prompt, params()).body["prompt"] == "<s>Hi", name


def test_answers_are_limited_to_the_room_that_is_left() -> None:
    def limit(name: str, wanted: int, length: int, field: str, **facts: Any) -> Json:
        prompt = ServedPrompt("Hi", length=length)
        return kind_of(name, **facts).request(prompt, params({"max_new_tokens": wanted})).body.get(field)

    assert limit("vllm", 5000, -1, "max_tokens") == 2048
    assert limit("vllm", 0, -1, "max_tokens") is None, "the server's own default is 16"
    assert limit("sglang", 0, 48, "max_tokens") == 2000
    assert limit("sglang", 300, 2000, "max_tokens") == 48
    assert limit("llama-server", 0, -1, "n_predict") == -1
    assert (
        kind_of("ollama").request(ServedPrompt("Hi"), params({"max_new_tokens": 0})).body["options"]["num_predict"]
        == -1
    )
    assert limit("openai", 0, -1, "max_tokens") is None


def test_values_that_a_server_would_refuse_are_the_nearest_that_it_takes() -> None:
    for name in ("vllm", "sglang"):
        asked = params({"top_p": 0, "min_length": 20, "max_new_tokens": 5})
        body = kind_of(name).request(ServedPrompt("Hi"), asked).body
        assert (body["min_tokens"], body["max_tokens"]) == (5, 5) and 0 < body["top_p"] < 0.001


def test_log_probabilities_and_ids_are_asked_for_in_each_servers_words() -> None:
    asked, prompt = params(top_logprobs=2), ServedPrompt("Hi")
    chat = ServedPrompt(messages=({"role": "user", "content": "Hi"},))
    assert kind_of("vllm").request(prompt, asked).body["logprobs"] == 2
    assert kind_of("llama-server").request(prompt, asked).body["n_probs"] == 2
    assert kind_of("llama-server").request(prompt, params(top_logprobs=0)).body["n_probs"] == 1
    for name in ("vllm", "sglang", "llama-server", "openai"):
        body = kind_of(name).request(chat, asked).body
        assert (body["logprobs"], body["top_logprobs"]) == (True, 2), name
    assert kind_of("ollama").request(prompt, asked).body["top_logprobs"] == 2
    assert kind_of("text-studio").request(chat, asked).body["top_logprobs"] == 2
    assert kind_of("sglang").request(prompt, asked).body["return_token_ids"] is True
    assert kind_of("sglang").request(prompt, params(), ids=True).body["return_token_ids"] is True
    for name in ("vllm", "ollama", "openai", "text-studio"):
        with pytest.raises(OptionError, match="top_logprobs"):
            kind_of(name).request(prompt, params(top_logprobs=50))
    assert kind_of("vllm").request(prompt, params(), ids=True, interval=4).body["return_token_ids"] is True
    assert kind_of("vllm").request(prompt, params(), ids=True, interval=4).body["stream_interval"] == 4
    for coarse in (prompt, ServedPrompt(messages=({"role": "user", "content": "Hi"},))):
        body = kind_of("vllm").request(coarse, params({"presence_penalty": 0.1}), interval=4).body
        assert body["return_token_ids"] is True, "else the four tokens of an event count as one"
    assert kind_of("llama-server").request(prompt, params(), ids=True).body["return_tokens"] is True


def test_marks_of_thoughts_that_are_special_tokens_are_shown() -> None:
    asked = {**params(), "visible": ["<think>"]}
    for name in ("vllm", "sglang"):
        assert kind_of(name).request(ServedPrompt("Hi"), asked).body["skip_special_tokens"] is False
    assert kind_of("llama-server").request(ServedPrompt("Hi"), asked).body["preserved_tokens"] == ["<think>"]


def test_token_ids_are_sent_as_they_are_or_refused_by_name(subtests: pytest.Subtests) -> None:
    prompt = ServedPrompt(tokens=(5, 6))
    for name in KINDS:
        with subtests.test(name):
            if name in ("vllm", "sglang", "text-studio", "llama-server"):
                assert kind_of(name).request(prompt, params()).body["prompt"] == [5, 6]
            else:
                with pytest.raises(Unsupported, match="token ids"):
                    kind_of(name).request(prompt, params())


def test_a_dynamic_temperature_is_a_mean_and_a_range() -> None:
    asked = {"dynamic_temperature": True, "dynatemp_low": 0.5, "dynatemp_high": 1.5, "dynatemp_exponent": 1.2}
    body = kind_of("llama-server").request(ServedPrompt("Hi"), params(asked)).body
    assert (body["temperature"], body["dynatemp_range"], body["dynatemp_exponent"]) == (1.0, 0.5, 1.2)
    greedy = kind_of("llama-server").request(ServedPrompt("Hi"), params({**asked, "temperature": 0})).body
    assert (greedy["temperature"], greedy["dynatemp_range"]) == (0.0, 0.0)


def test_every_request_to_a_llama_server_names_the_model() -> None:
    """One that has many models refuses the others."""
    answers: dict[str, Json] = {"/tokenize": {"tokens": [1]}, "/detokenize": {"content": "a"}}
    server = CannedServer(answers)
    kind = kind_of("llama-server", server)
    kind.questions["encode"]("a"), kind.questions["decode"]([1]), kind.tokenize("a")
    assert kind.questions["decode"]([]) == ""
    assert len(server.asked) == 3 and all(body["model"] == "m" for _, body in server.asked)
    messages = ServedPrompt(messages=({"role": "user", "content": "Hi"},))
    assert all(kind.request(prompt, params()).body["model"] == "m" for prompt in (ServedPrompt("Hi"), messages))


def test_openai_gets_as_many_stop_strings_as_it_takes() -> None:
    for count in (1, 4, 6):
        asked = params(stops=[f"S{number}" for number in range(count)])
        assert kind_of("openai").request(ServedPrompt("Hi"), asked).body["stop"] == asked["stop"][:4]


def test_pieces_of_a_llama_server_are_texts_or_bytes() -> None:
    tokens = [{"id": 1, "piece": "a"}, {"id": 2, "piece": [228, 184]}, {"id": 3, "piece": [150]}]
    kind = kind_of("llama-server", CannedServer({"/tokenize": {"tokens": tokens}}))
    assert [piece[0] for piece in kind.questions["pieces"]("a\u4e16")] == [1, 2, 3]
    for piece in (1 << 40, None, {"a": 1}, [300]):
        kind = kind_of("llama-server", CannedServer({"/tokenize": {"tokens": [{"id": 1, "piece": piece}]}}))
        with pytest.raises(GenerationFailed):
            kind.questions["pieces"]("a")


@pytest.mark.lora("request one", "request several", "request weights", "request hot", loader="Remote")
def test_loras_of_a_llama_server_are_sent_with_every_request() -> None:
    def completion(body: Json) -> Json:
        changed = sum(one["scale"] for one in body["lora"])
        top = [{"id": 5, "token": "a", "logprob": -1.0 - changed}, {"id": 6, "token": "b", "logprob": -2.0}]
        return {"completion_probabilities": [{"id": 5, "token": "a", "logprob": -1.0, "top_logprobs": top}]}

    loras = (ServerLora("green.gguf", 0), ServerLora("banana.gguf", 1))
    kind = kind_of("llama-server", CannedServer({"/completion": completion}), loras=loras)
    assert {"lora", "loras"} <= kind.abilities and not {"lora"} & kind_of("llama-server").abilities
    effects = kind.operations["apply_loras"]([{"name": "banana", "path": "/x/banana", "weight": 0.5}])
    assert effects == [0.5]
    assert kind.request(ServedPrompt("Hi"), params()).body["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 0.5}]
    both = [
        {"name": name, "path": f"/x/{name}", "weight": weight} for name, weight in (("green", 0.25), ("banana", 0.5))
    ]
    assert len(kind.operations["apply_loras"](both)) == 2
    assert [one["scale"] for one in kind.request(ServedPrompt("Hi"), params()).body["lora"]] == [0.25, 0.5]
    apply = kind.operations["apply_loras"]
    with pytest.raises(LoraRefused, match=r"does not offer it; it was started with these: green\.gguf, banana\.gguf"):
        apply([{"name": "cat", "path": "/x/cat", "weight": 1.0}])
    with pytest.raises(LoraWithoutEffect):
        apply([{"name": "green", "path": "/x/green", "weight": 1e-9}])
    assert [one["scale"] for one in kind.request(ServedPrompt("Hi"), params()).body["lora"]] == [0.25, 0.5], "as before"
    assert apply([{"name": "green", "path": "/x/green", "weight": 0.0}]) == [0.0]
