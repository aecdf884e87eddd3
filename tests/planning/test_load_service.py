"""Explanations of a plan: values with their sources, and the exact calls of the backend."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.core.errors import Unsupported, WebUIError, both
from modules.core.rpc_errors import NodeInUse
from modules.loaders.overlay import Overlay
from modules.loaders.registry import LOADERS, RPC
from modules.planning.load_request import LoadRequest
from modules.planning.load_service import LoadService
from modules.runtime.node_memory import NodeMemory
from modules.setup.overlay_installer import Installation
from tests.conftest import LLAMA
from tests.planning.test_planner import checkpoint
from tests.support.gguf_files import MODEL, gguf

MakeApp = Callable[..., App]


def test_an_explanation_has_all_values_with_sources_and_the_exact_calls(small_models: Path, make_app: MakeApp) -> None:
    app = make_app("--model", "tiny-7B", "--n_ctx=1000", "--cache_8bit", "--flash-attn=false", "--no_mul_mat_q")
    assert app.named_model is not None
    explanation = json.loads(
        json.dumps(app.loading.explain(app.planner.plan(LoadRequest(app.named_model, form={"threads": 3}))))
    )
    assert (explanation["model"], explanation["loader"]) == ("tiny-7B.gguf", "llama.cpp")
    assert set(explanation["options"]) == set(LLAMA.options)
    assert explanation["options"]["n_ctx"] == {"value": 1000, "source": "flag"}
    assert explanation["options"]["threads"] == {"value": 3, "source": "form"}
    assert explanation["options"]["n_batch"] == {"value": 512, "source": "default"}
    assert explanation["calls"]["llama_model_load_from_file"]["path_model"] == str(small_models / "tiny-7B.gguf")
    context = explanation["calls"]["llama_init_from_model"]
    assert (context["n_ctx"], context["n_threads"], context["flash_attn_type"]) == (1000, 3, 1)
    assert {"flash_attn", "no_mul_mat_q"} <= {note["option"] for note in explanation["notes"]}
    assert all(set(note["text"]) == {"en", "zh"} for note in explanation["notes"])


def test_a_model_on_a_server_is_explained_without_asking_it_and_without_its_key(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_KEY", "sk-secret")
    (tmp_path / "models" / "a.server.yaml").write_text("url: https://192.0.2.1\nkey_env: MY_KEY\n")
    app = make_app()
    explanation = app.loading.explain(app.planner.plan(LoadRequest(app.record("a"))))
    assert explanation["calls"]["connect"]["key"] == "MY_KEY"
    assert explanation["notes"] == [], "no note on a template that nobody has asked for yet"
    assert "sk-secret" not in json.dumps(explanation)


def test_an_explanation_has_a_note_if_the_model_has_no_chat_template(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    record = app.catalog.find("tiny-7B")
    plan = app.planner.plan(LoadRequest(dataclasses.replace(record, chat_template="")))
    notes = {note["option"]: note["text"] for note in app.loading.explain(plan)["notes"]}
    assert "Alpaca" in notes["chat_template"]["en"] and "Alpaca" in notes["chat_template"]["zh"]


def test_an_explanation_says_that_an_embedding_model_cannot_chat(small_models: Path, make_app: MakeApp) -> None:
    (small_models / "embed.gguf").write_bytes(gguf({**MODEL, "llama.pooling_type": 1}))
    app = make_app()
    explanation = app.loading.explain(app.planner.plan(LoadRequest(app.catalog.find("embed"))))
    notes = {note["option"]: note["text"] for note in explanation["notes"]}
    assert "cannot chat" in notes["chat_template"]["en"]
    context = explanation["calls"]["llama_init_from_model"]
    assert (context["embeddings"], context["pooling_type"]) == (True, 1)


def test_an_explanation_for_a_missing_loader_has_the_reason_and_the_values(
    small_models: Path, make_app: MakeApp
) -> None:
    app = make_app()
    checkpoint(small_models / "weights")
    explanation = app.loading.explain(app.planner.plan(LoadRequest(app.catalog.find("weights"), "Transformers")))
    assert set(explanation["options"]) == set(LOADERS["Transformers"].options)
    if "unavailable" in explanation:
        assert all("Transformers" in explanation["unavailable"][language] for language in ("en", "zh"))
    else:
        assert explanation["calls"]


def test_explain_loads_no_model(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    app.loading.explain(app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"))))
    assert app.models.status.state == "empty"


class Installing:
    """Installations of which one has begun."""

    def __init__(self, error: WebUIError | None = None) -> None:
        self.error, self.started = error, list[Overlay]()

    def start(self, overlay: Overlay) -> None:
        self.started.append(overlay)

    def status(self, overlay: Overlay) -> Installation:
        if overlay != RPC:
            return Installation("installed")
        return Installation("installing", 1, 3, phase="compiling", error=None if self.started else self.error)


def test_a_load_on_other_machines_has_the_rpc_backend_compiled(
    small_models: Path, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    app.memory.node_memory = NodeMemory(lambda nodes: {node: NodeInUse(node) for node in nodes})
    plan = app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"), form={"rpc": "a:1", "n_gpu_layers": -1}))
    monkeypatch.setattr(Overlay, "is_installed", property(lambda overlay: True))
    assert app.loading.prepare(plan).nodes == ("a:1",), "where it is there, nothing is installed"
    monkeypatch.setattr(Overlay, "is_installed", property(lambda overlay: overlay.name != RPC.name))
    for earlier, words in ((None, "Compiling llama.cpp RPC: 1 of 3"), (Unsupported(both("no room")), "no room")):
        overlays = Installing(earlier)
        loading = LoadService(app.models, app.loras, app.consent, overlays, app.templates)
        with pytest.raises(WebUIError, match=words):
            loading.begin(plan)
        assert overlays.started == [RPC], "a failed attempt is said once, and begun again"
    assert not loading.prepare(app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"), form={"rpc": "a:1"}))).nodes
