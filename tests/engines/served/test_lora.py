"""LoRAs of servers that apply one at a time."""

from __future__ import annotations

import pytest

from modules.core.errors import Unsupported
from modules.core.events import Json
from modules.core.lora_errors import LoraRefused, LoraWithoutEffect
from modules.core.server_errors import ServerRefused
from modules.engines.loglikelihoods import Loglikelihoods
from modules.engines.served.discovery import KINDS
from modules.engines.served.server_kind import (
    ASK_SECONDS,
    Answer,
    ServedPrompt,
    ServerFacts,
    ServerKind,
    ServerLora,
)
from modules.loaders.generation_settings import resolve
from tests.support.served_kinds import Canned, CannedServer


def kind_of(name: str, answers: dict[str, Canned], loras: tuple[ServerLora, ...] = ()) -> ServerKind:
    return KINDS[name].make(CannedServer(answers), ServerFacts(name, "m", loras=loras))


def probe(body: Json) -> Json:
    change = {"banana": 1.5}.get(body["model"], 0.0)
    return {"choices": [{"logprobs": {"top_logprobs": [{"a": -1.0 - change, "b": -2.0}]}}]}


def adapter(name: str, weight: float = 1.0) -> dict[str, Json]:
    return {"name": name, "path": f"/loras/{name}", "weight": weight}


@pytest.mark.lora("request one", "request hot", loader="vLLM")
def test_vllm_applies_one_lora_as_the_model_of_its_requests() -> None:
    kind = kind_of("vllm", {"/v1/completions": probe}, (ServerLora("banana"), ServerLora("nothing")))
    apply = kind.operations["apply_loras"]

    def model() -> Json:
        return kind.request(ServedPrompt("Hi"), resolve({})).body["model"]

    assert apply([adapter("banana")]) == [1.5] and model() == "banana"
    with pytest.raises(LoraWithoutEffect):
        apply([adapter("nothing")])
    assert model() == "banana", "the former one is still applied"
    with pytest.raises(Unsupported, match="weight 1"):
        apply([adapter("banana", 0.5)])
    with pytest.raises(Unsupported, match="one LoRA at a time"):
        apply([adapter("banana"), adapter("nothing")])
    assert apply([adapter("banana", 0.0)]) == [0.0] and model() == "m"
    assert apply([]) == []


def test_vllm_loads_a_lora_where_that_is_allowed_and_says_where_it_is_not() -> None:
    def loaded(body: Json) -> Json:
        assert body == {"lora_name": "banana", "lora_path": "/loras/banana"}
        return "Success: LoRA adapter 'banana' added successfully."

    kind = kind_of("vllm", {"/v1/completions": probe, "/v1/load_lora_adapter": loaded})
    assert kind.operations["apply_loras"]([adapter("banana")]) == [1.5]
    with pytest.raises(LoraRefused, match="does not offer it; it was started with these: none"):
        kind_of("vllm", {"/v1/completions": probe}).operations["apply_loras"]([adapter("banana")])


def test_a_lora_that_the_server_cannot_load_is_refused_in_its_words() -> None:
    def ask(path: str, body: Json = None, *, seconds: float = ASK_SECONDS) -> Answer:
        assert path == "/v1/load_lora_adapter"
        return Answer(400, None, ServerRefused("http://server", 400, "rank 64 is too high"))

    kind = KINDS["vllm"].make(ask, ServerFacts("vllm", "m"))
    with pytest.raises(LoraRefused, match=r"banana.*rank 64 is too high"):
        kind.operations["apply_loras"]([adapter("banana")])
    assert kind.request(ServedPrompt("Hi"), resolve({})).body["model"] == "m"


def test_sglang_applies_one_lora_as_a_field_of_its_requests() -> None:
    def complete(body: Json) -> Json:
        change = 1.5 if body.get("lora_path") == "banana" else 0.0
        return {"choices": [{"logprobs": {"top_logprobs": [{"a": -1.0 - change, "b": -2.0}]}}]}

    def score(body: Json) -> Json:
        listed = [[None, 5, None], [-1.0 if body.get("lora_path") == "banana" else -2.0, 6, None]]
        return {"meta_info": {"input_token_logprobs": listed}}

    def scored(kind: ServerKind) -> tuple[float, ...]:
        return Loglikelihoods.from_json(kind.operations["loglikelihoods"]([5, 6], 1)).logprobs

    loras = (ServerLora("banana"), ServerLora("nothing"))
    kind = kind_of("sglang", {"/v1/completions": complete, "/generate": score}, loras)
    apply = kind.operations["apply_loras"]
    assert apply([adapter("banana")]) == [1.5]
    body = kind.request(ServedPrompt("Hi"), resolve({})).body
    assert (body["model"], body["lora_path"]) == ("m", "banana")
    assert scored(kind) == (-1.0,)
    with pytest.raises(LoraWithoutEffect):
        apply([adapter("nothing")])
    apply([])
    assert "lora_path" not in kind.request(ServedPrompt("Hi"), resolve({})).body
    assert scored(kind) == (-2.0,)
