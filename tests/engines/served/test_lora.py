"""LoRAs of servers that apply one at a time."""

from __future__ import annotations

import pytest

from modules.core.errors import Unsupported
from modules.core.events import Json
from modules.core.lora_errors import LoraRefused, LoraWithoutEffect
from modules.engines.served.discovery import KINDS
from modules.engines.served.server_kind import ServedPrompt, ServerFacts, ServerKind, ServerLora
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
