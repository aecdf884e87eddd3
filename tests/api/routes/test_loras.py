"""LoRAs over the API: listing, applying and removing them, refusals, and guests' permissions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.app import App
from tests.support.lora_files import LAYER, peft
from tests.support.serving import Server, server_of
from tests.support.trained_loras import LESSONS

ENDPOINT = "/internal/lora"


@pytest.fixture
def loras(tmp_path: Path, loras_folder: Path) -> Path:
    """Return a folder of LoRAs: two that fit the demo model, and one that does not."""
    shutil.copytree(loras_folder, tmp_path / "loras")
    wide = {LAYER + "q_proj.lora_A.weight": (4, 1024), LAYER + "q_proj.lora_B.weight": (1024, 4)}
    peft(tmp_path / "loras" / "wide", wide)
    return tmp_path / "loras"


@pytest.fixture
def server(make_app: Callable[..., App], models_folder: Path, loras: Path) -> Iterator[Server]:
    app = make_app("--model-dir", str(models_folder), "--lora-dir", str(loras))
    with server_of(app) as running:
        yield running


def load(server: Server, model: str) -> None:
    response = server.post("/internal/model/load", {"model_name": model, "args": {"n_ctx": 512}})
    assert response.status_code == 200, response.text


def answers_as_trained(server: Server, lora: str) -> bool:
    """Return whether the model answers as `lora` was trained to."""
    lesson = LESSONS[lora]
    body = {"prompt": lesson.beginning, "max_tokens": 8, "temperature": 0}
    return lesson.words in server.post("/completions", body).json()["choices"][0]["text"]


def test_loras_are_listed_with_their_facts(server: Server) -> None:
    listing = server.http.get(f"{ENDPOINT}/list").json()
    assert listing["lora_names"] == ["banana", "green", "wide"] and listing["applied"] == []
    banana = listing["loras"][0]
    assert (banana["ranks"], banana["alpha"], banana["targets"]) == ([8], 16, ["q_proj", "v_proj"])
    assert banana["problem"] is None and banana["size"] > 100_000


def test_applied_loras_change_the_answer_and_removed_ones_do_not(server: Server, smollm2: Path) -> None:
    load(server, smollm2.name)
    assert not answers_as_trained(server, "banana")
    body = {"lora_names": ["banana", "green"], "lora_weights": [1, 0.9]}
    applied = server.post(f"{ENDPOINT}/load", body).json()["applied"]
    assert [(lora["name"], lora["weight"]) for lora in applied] == [("banana", 1), ("green", 0.9)]
    assert all(lora["effect"] > 1 for lora in applied)
    assert answers_as_trained(server, "banana") and answers_as_trained(server, "green")
    assert server.http.get("/internal/model/info").json()["lora_names"] == ["banana", "green"]
    assert server.http.get(f"{ENDPOINT}/list").json()["applied"] == applied
    assert server.post(f"{ENDPOINT}/load", {"lora_names": ["green"]}).status_code == 200
    assert answers_as_trained(server, "green") and not answers_as_trained(server, "banana")
    assert server.post(f"{ENDPOINT}/unload", {}).json() == {"applied": []}
    assert not answers_as_trained(server, "green")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"lora_names": ["banan"]}, 404, "banana"),
        ({"lora_names": ["banana", "wide"]}, 422, "does not fit"),
        ({"lora_names": ["banana"], "lora_weights": [1, 1]}, 400, "lora_weights"),
        ({"lora_names": ["banana"], "lora_weights": [3]}, 400, "weight"),
        ({"lora_names": "banana"}, 400, "lora_names"),
        ({"names": []}, 400, "names"),
        ({}, 400, "lora_names"),
    ],
)
def test_a_refused_lora_is_named_and_changes_nothing(
    body: dict[str, object], status: int, message: str, server: Server, smollm2: Path
) -> None:
    load(server, smollm2.name)
    server.post(f"{ENDPOINT}/load", {"lora_names": ["green"]})
    response = server.post(f"{ENDPOINT}/load", body)
    assert response.status_code == status and message in response.json()["error"]["message"]
    assert [lora["name"] for lora in server.http.get(f"{ENDPOINT}/list").json()["applied"]] == ["green"]


def test_without_a_loaded_model_loras_cannot_be_applied(server: Server) -> None:
    assert server.post(f"{ENDPOINT}/load", {"lora_names": ["banana"]}).status_code == 400


def test_a_model_loaded_by_the_api_gets_its_saved_loras(
    make_app: Callable[..., App], tmp_path: Path, smollm2: Path, loras: Path
) -> None:
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    (tmp_path / "models" / "config-user.yaml").write_text(f"{smollm2.name}:\n  lora: {{green: 0.5, gone: 1}}\n")
    with server_of(make_app("--lora-dir", str(loras))) as server:
        load(server, smollm2.name)
        assert server.http.get(f"{ENDPOINT}/list").json()["applied"] == []
        loaded = server.post("/internal/model/load", {"model_name": smollm2.name, "args": {"n_ctx": 256}}).json()
        assert loaded["loras"] == [] and "gone" in loaded["lora_problem"]
        (tmp_path / "models" / "config-user.yaml").write_text(f"{smollm2.name}:\n  lora: {{green: 0.5}}\n")
        loaded = server.post("/internal/model/load", {"model_name": smollm2.name, "args": {"n_ctx": 512}}).json()
        assert [(lora["name"], lora["weight"]) for lora in loaded["loras"]] == [("green", 0.5)]


def test_guests_may_list_loras_but_not_apply_them(make_app: Callable[..., App], loras: Path) -> None:
    with server_of(make_app("--lora-dir", str(loras), "--multi-user")) as server:
        assert server.http.get(f"{ENDPOINT}/list").status_code == 200
        assert server.post(f"{ENDPOINT}/load", {"lora_names": ["green"]}).status_code == 403
        assert server.post(f"{ENDPOINT}/unload", {}).status_code == 403
