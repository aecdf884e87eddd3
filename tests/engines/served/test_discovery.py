"""Which kind a server is, which model is used there, and what it tells.

The answers of vLLM and llama-server are recorded ones, shortened; the others follow their documentation and sources.
"""

from __future__ import annotations

from typing import Any

import pytest

from modules.core.errors import OptionError
from modules.core.events import Json
from modules.core.product import PRODUCT
from modules.core.server_errors import ServerDenied, ServerFailed, ServerRefused
from modules.engines.served.discovery import MESSAGES_TEMPLATE, UNKNOWN_CONTEXT, Choices, discover, info_of
from modules.engines.served.server_kind import ASK_SECONDS, Answer, ServerFacts, ServerLora
from modules.loaders.server_samplers import SERVER_SAMPLERS
from tests.support.served_kinds import Canned, CannedServer, words_tokenizer

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


def models(*entries: dict[str, Json]) -> dict[str, Canned]:
    return {"/v1/models": {"object": "list", "data": list(entries)}}


VLLM: dict[str, Canned] = {
    **models(
        {"id": "smollm2", "owned_by": "vllm", "root": "/m/SmolLM2", "parent": None, "max_model_len": 2048},
        {"id": "banana", "owned_by": "vllm", "root": "/l/banana", "parent": "smollm2", "max_model_len": None},
    ),
    "/version": {"version": "0.32.0"},
    **words_tokenizer(),
}
LLAMA: dict[str, Canned] = {
    **models({"id": "m.gguf", "owned_by": "llamacpp", "meta": {"n_vocab": 49152, "n_ctx": 1024}}),
    "/props?model=m.gguf": {
        "default_generation_settings": {"n_ctx": 1024},
        "total_slots": 2,
        "chat_template": CHATML,
        "bos_token": "<|im_start|>",
        "eos_token": "<|im_end|>",
        "build_info": "b9999-abc",
        "model_alias": "m.gguf",
    },
    "/tokenize": {"tokens": []},
    "/lora-adapters?model=m.gguf": [{"id": 0, "path": "/l/green.gguf", "scale": 1.0}],
}
TEXT_STUDIO: dict[str, Canned] = {
    **models({"id": "m.gguf", "owned_by": "local", "context_length": 1024}),
    "/props": {**LLAMA["/props?model=m.gguf"], "build_info": f"{PRODUCT} 1234"},  # type: ignore[dict-item]
    "/props?model=m.gguf": {**LLAMA["/props?model=m.gguf"], "build_info": f"{PRODUCT} 1234"},  # type: ignore[dict-item]
    "/tokenize": {"tokens": []},
}
SGLANG: dict[str, Canned] = {
    **models({"id": "qwen", "owned_by": "sglang", "root": "qwen", "max_model_len": 32768}),
    "/model_info": {"model_path": "qwen/qwen2.5-0.5b-instruct", "is_generation": True},
    "/server_info": {"version": "0.5.23", "max_running_requests": 48},
    "/tokenize": {"tokens": [1], "count": 1, "max_model_len": 32768},
    "/api/tags": {"models": []},
}
OLLAMA: dict[str, Canned] = {
    **models({"id": "llama3.2:latest", "owned_by": "library"}),
    "/api/version": {"version": "0.12.0"},
    "/api/ps": {"models": [{"name": "llama3.2:latest", "context_length": 8192}]},
    "/api/show": {"parameters": "stop  x\nnum_ctx   2000", "model_info": {"llama.context_length": 131072}},
}
LM_STUDIO: dict[str, Canned] = {
    **models({"id": "qwen3-4b", "owned_by": "organization_owner"}),
    "/api/v1/models": {
        "models": [
            {
                "type": "llm",
                "key": "qwen3-4b",
                "loaded_instances": [{"id": "qwen3-4b", "config": {"context_length": 16384}}],
                "max_context_length": 40960,
            }
        ]
    },
}


def found(answers: dict[str, Canned], **choices: Any) -> ServerFacts:
    return discover(CannedServer(answers), Choices(**choices)).facts


def test_each_kind_of_server_is_recognized(subtests: pytest.Subtests) -> None:
    for name, answers in {
        "vllm": VLLM,
        "llama-server": LLAMA,
        "text-studio": TEXT_STUDIO,
        "sglang": SGLANG,
        "ollama": OLLAMA,
        "lm-studio": LM_STUDIO,
        "openai": models({"id": "gpt"}),
    }.items():
        with subtests.test(name):
            assert found(answers).kind == name
            listed = answers["/v1/models"]
            anonymous = [{**entry, "owned_by": "me"} for entry in listed["data"]]  # type: ignore[index]
            props = {"/props": answers["/props?model=m.gguf"]} if name == "llama-server" else {}
            assert found({**answers, **props, "/v1/models": {"data": anonymous}}).kind == name, (
                "a router names no owner"
            )


def test_another_of_these_programs_has_the_parameters_of_its_loader() -> None:
    assert found(TEXT_STUDIO).samplers is None
    for loader, lacks in (("llama.cpp", set()), ("ExLlamav2", {"top_n_sigma"}), ("Remote", None), ("unheard of", None)):
        answers = {**TEXT_STUDIO, "/v1/internal/model/info": {"model_name": "m.gguf", "loader": loader}}
        samplers = found(answers).samplers
        assert (samplers is None) is (lacks is None)
        assert samplers is None or SERVER_SAMPLERS["text-studio"] - samplers == lacks
    answers["/v1/internal/model/info"] = {"model_name": "another", "loader": "ExLlamav2"}
    assert found(answers).samplers is None


def test_a_server_is_what_the_user_says_it_is() -> None:
    assert found(VLLM, kind="openai").kind == "openai"
    assert found({}, kind="ollama", model="x").model == "x", "a server that lists no models"


def test_vllm_tells_its_context_its_loras_and_by_rendering_its_template() -> None:
    facts = found(VLLM)
    assert (facts.model, facts.version, facts.context_length) == ("smollm2", "0.32.0", 2048)
    assert facts.loras == (ServerLora("banana"),)
    assert facts.takes_text and facts.takes_ids and facts.counts and not facts.needs_length and not facts.messages
    assert "<|im_start|>user\\n" in facts.chat_template
    assert found({**VLLM, "/version": {"version": "0.9.2"}}).needs_length
    tokenizer = {"chat_template": CHATML, "bos_token": {"content": "<s>"}, "eos_token": "</s>"}
    facts = found({**VLLM, "/tokenizer_info": tokenizer})
    assert (facts.chat_template, facts.special_tokens) == (CHATML, {"bos_token": "<s>", "eos_token": "</s>"})
    several = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": CHATML}, "y"]
    assert found({**VLLM, "/tokenizer_info": {**tokenizer, "chat_template": several}}).chat_template == CHATML


def test_the_bos_token_that_a_server_adds_is_found_out() -> None:
    assert found(VLLM).bos == ""
    assert found({**VLLM, **words_tokenizer("<s>")}).bos == "<s>"
    assert found(LLAMA).bos == "", "the template has it, but the server adds none"
    assert found({**LLAMA, "/tokenize": {"tokens": [1]}}).bos == "<|im_start|>"


def test_conversations_are_messages_without_a_template_or_by_choice() -> None:
    lone = {key: value for key, value in VLLM.items() if key not in ("/tokenize", "/detokenize")}
    assert found(lone).messages and not found(lone).counts
    assert not found(lone, prompts="text").messages
    assert found(LLAMA, prompts="chat").messages and not found(LLAMA).messages
    assert found(models({"id": "gpt"})).messages and not found(models({"id": "gpt"})).takes_text
    assert found(models({"id": "gpt"}), prompts="text").takes_text


def test_llama_server_tells_slots_template_and_loras() -> None:
    facts = found(LLAMA)
    assert (facts.context_length, facts.slots, facts.vocabulary_size) == (1024, 2, 49152)
    assert facts.chat_template == CHATML and facts.special_tokens["eos_token"] == "<|im_end|>"
    assert facts.loras == (ServerLora("green.gguf", 0),) and facts.alias == "m.gguf"
    assert found(LLAMA, context_length=512).context_length == 512
    assert found(LLAMA, context_length=9999).context_length == 1024, "it cannot have more"


def test_ollamas_context_is_that_of_the_loaded_model_or_of_its_settings() -> None:
    assert found(OLLAMA).context_length == 8192
    assert found({**OLLAMA, "/api/ps": {"models": []}}).context_length == 2000
    facts = found({**OLLAMA, "/api/ps": None, "/api/show": {}})
    assert facts.context_length == 4096 and [note.option for note in facts.notes] == ["n_ctx"]
    assert found(OLLAMA, context_length=3000).context_length == 3000
    assert found(OLLAMA, model="LLAMA3.2").model == "llama3.2:latest"


def test_ollamas_template_and_bos_token_come_from_the_models_file() -> None:
    def show(body: Json) -> Json:
        tokens = {"tokenizer.ggml.tokens": ["a", "<s>"]} if body.get("verbose") else {"tokenizer.ggml.tokens": []}
        facts = {
            "tokenizer.chat_template": CHATML,
            "tokenizer.ggml.bos_token_id": 1,
            "tokenizer.ggml.add_bos_token": True,
        }
        return {"model_info": {**facts, **tokens}}

    facts = found({**OLLAMA, "/api/show": show})
    assert (facts.chat_template, facts.bos, facts.messages) == (CHATML, "<s>", False)

    def without_vocabulary(body: Json) -> Json:
        return None if body.get("verbose") else show(body)

    facts = found({**OLLAMA, "/api/show": without_vocabulary})
    assert (facts.chat_template, facts.bos) == (CHATML, "")


def test_lm_studio_tells_the_context_that_the_model_was_loaded_with() -> None:
    assert found(LM_STUDIO).context_length == 16384


def test_a_model_is_chosen_among_several_or_refused_with_their_names() -> None:
    several = models({"id": "a"}, {"id": "b"})
    assert found(several, model="b").model == "b"
    for wanted in ("", "c"):
        with pytest.raises(OptionError, match="one of the server's models: a, b"):
            found(several, model=wanted)
    with pytest.raises(OptionError, match="lists no models"):
        found(models())
    assert found(models({"id": "A"}, {"id": "a"}), model="a").model == "a", "the same letters before any others"


def test_a_missing_key_is_the_servers_refusal_as_is_a_model_that_it_still_loads(subtests: pytest.Subtests) -> None:
    for error in (ServerDenied("http://s", 401, "No key."), ServerFailed("http://s", 503, "Loading model")):

        def refuse(
            path: str, body: Json = None, *, error: ServerRefused = error, seconds: float = ASK_SECONDS
        ) -> Answer:
            return Answer(error.code, None, error)

        with subtests.test(error.words), pytest.raises(type(error), match=error.words):
            discover(refuse, Choices())


def test_an_older_llama_server_lists_its_model_without_a_key_but_is_refused() -> None:
    def ask(path: str, body: Json = None, *, seconds: float = ASK_SECONDS) -> Answer:
        if path == "/v1/models":
            return CannedServer(LLAMA)(path, body)
        return Answer(401, None, ServerDenied("http://s", 401, "No key."))

    with pytest.raises(ServerDenied, match="No key"):
        discover(ask, Choices())


def test_nonsense_is_left_unknown(subtests: pytest.Subtests) -> None:
    """Every answer of every server in turn is another type than expected."""
    for name, answers in {"vllm": VLLM, "llama-server": LLAMA, "sglang": SGLANG, "ollama": OLLAMA}.items():
        for path in [*answers, "/tokenizer_info"]:
            for value in (
                [],
                [1],
                {},
                {"data": 5},
                "x",
                5,
                {"model_info": 3, "models": 3, "tokens": "x", "version": 3},
            ):
                model = "m" if path == "/v1/models" else ""
                with subtests.test(name, path=path, value=str(value)):
                    kind = discover(CannedServer({**answers, path: value}), Choices(model, kind=name))
                    assert info_of(kind, 8).context_length > 0


def test_what_a_server_tells_is_bounded() -> None:
    version = {**VLLM, "/version": {"version": "9" * 5000}}
    assert found(version).version == ""
    for length in (10**30, -1, True, 2048.5, "2048"):
        entry = {"id": "m", "owned_by": "vllm", "max_model_len": length}
        assert found({**VLLM, **models(entry)}).context_length == 0
    template = {"chat_template": "x" * (1 << 20) + "x"}
    assert found({**VLLM, "/tokenizer_info": template}).chat_template != template["chat_template"]
    many = [{"id": f"l{number}", "owned_by": "vllm", "parent": "m"} for number in range(1500)]
    assert len(found({**VLLM, **models({"id": "m", "owned_by": "vllm"}, *many)}).loras) == 1000


def test_the_engine_says_what_the_server_can_do() -> None:
    info = info_of(discover(CannedServer(LLAMA), Choices()), 512)
    assert (info.context_length, info.slots, info.messages, info.server) == (1024, 2, False, "llama-server")
    assert info.abilities == ("lora", "loras", "next", "parallel") and "xtc_probability" in (info.samplers or ())
    info = info_of(discover(CannedServer(models({"id": "gpt"})), Choices()), 512)
    assert (info.context_length, info.slots, info.messages) == (UNKNOWN_CONTEXT, 512, True)
    assert info.chat_template == MESSAGES_TEMPLATE and [note.option for note in info.notes] == ["n_ctx"]
