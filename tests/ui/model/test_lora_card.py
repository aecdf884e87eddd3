"""Event handlers of the LoRA card: their updates, and invalid payloads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.loaders.load_settings import resolve
from modules.planning.load_request import LoadRequest
from modules.runtime.load_plan import LoadPlan
from modules.runtime.model_manager import ModelManager
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.lora_card import LoraCard
from tests.lora.test_manager import SEVERAL_LORAS, root  # noqa: F401
from tests.support.fake_server import FakeServer, Reply, Request
from tests.support.lora_files import peft
from tests.support.page_parts import AsCalled, page_parts

gr = gradio()


@pytest.fixture
def make_card(root: Path, make_app: Callable[..., App]) -> Callable[..., Any]:  # noqa: F811
    def make(*arguments: str, language: str = "en") -> Any:
        app = make_app("--lora-dir", str(root / "loras"), *arguments)
        with page_parts() as blocks:
            card = LoraCard(Page(app, language))
        return AsCalled(blocks, card)

    return make


def load(card: Any) -> ModelManager:
    app = card._app
    settings = resolve(SEVERAL_LORAS, model={}, saved={}, flags={}, form={})
    app.models.load(LoadPlan(app.record("m.gguf"), SEVERAL_LORAS, settings))
    return app.models


def last(card: Any, handler: Any, *arguments: object) -> dict[Any, Any]:
    """Run a handler and return its last updates."""

    async def run() -> dict[Any, Any]:
        shown: dict[Any, Any] = {}
        async for updates in handler(*arguments):
            assert set(updates) == {card.names, card.rows, card.status}
            shown = updates
        return shown

    return asyncio.run(run())


def test_a_new_page_shows_available_and_applied_loras(make_card: Callable[..., Any]) -> None:
    card = make_card()
    opened = card.open_page()
    assert opened[card.names]["choices"] == ["cat", "cut", "dog.gguf", "fail", "kill", "wide"]
    assert "value" not in opened[card.names] and opened[card.status] == ""
    load(card)
    card._app.loras.apply({"cat": 0.5})
    opened = card.open_page()
    assert opened[card.names]["value"] == ["cat"]
    assert 'value="0.5"' in opened[card.rows] and "<b>cat</b> × 0.5" in opened[card.status]


def test_for_an_empty_folder_the_card_says_where_to_put_loras(root: Path, make_card: Callable[..., Any]) -> None:  # noqa: F811
    card = make_card("--lora-dir", str(root / "nothing"))
    assert "no LoRA in loras/ yet" in card.open_page()[card.rows]
    peft(root / "nothing" / "cat")
    assert card.list_loras([], {})[card.rows] == ""


def test_selected_loras_are_applied_with_their_weights(make_card: Callable[..., Any]) -> None:
    card = make_card()
    models = load(card)
    shown = last(card, card.apply, ["cat", "dog.gguf"], {"cat": "0.5"})
    assert [(lora.name, lora.weight) for lora in models.status.loras] == [("cat", 0.5), ("dog.gguf", 1.0)]
    assert "<b>cat</b> × 0.5: changes logits by up to 5" in shown[card.status]
    shown = last(card, card.remove_all)
    assert models.status.loras == () and shown[card.names] == []
    assert "No LoRA applied" in shown[card.status]


def test_a_refusal_shows_the_reason_and_the_applied_loras(make_card: Callable[..., Any]) -> None:
    card = make_card(language="zh")
    load(card)
    last(card, card.apply, ["cat"], {})
    shown = last(card, card.apply, ["cat", "wide"], {})
    assert "不匹配" in shown[card.status] and "<b>cat</b>" in shown[card.status]
    assert "<b>wide</b>" not in shown[card.status]


def test_a_row_shows_the_facts_and_problems_of_a_lora(make_card: Callable[..., Any]) -> None:
    card = make_card()
    rows = card.describe(["cat", "cut"], {"cat": "1.5"})[card.rows]
    for text in ("rank 4", "alpha 8", "q_proj, v_proj", "base model user/tiny", 'value="1.5"', 'role="alert"'):
        assert text in rows


@pytest.mark.parametrize(
    ("base", "shown"), [("user/model", "user/model"), ("/home/me/models/tiny", "tiny"), ("C:\\m\\tiny\\", "tiny")]
)
def test_the_base_model_is_named_without_local_folders(
    base: str,
    shown: str,
    root: Path,  # noqa: F811
    make_card: Callable[..., Any],
) -> None:
    peft(root / "loras" / "mouse", base_model_name_or_path=base)
    card = make_card()
    assert f"<span>base model {shown}</span>" in card.describe(["mouse"], {})[card.rows]


def test_names_from_disk_are_escaped(
    root: Path,  # noqa: F811
    make_card: Callable[..., Any],
) -> None:
    name = "<img src=x onerror=alert(1)>"
    peft(root / "loras" / name, base_model_name_or_path="<b>base</b>")
    card = make_card()
    shown = card.describe([name], {name: '"><script>'})[card.rows]
    assert "<img" not in shown and "<b>base" not in shown and "<script" not in shown


def test_an_invalid_choice_of_loras_is_refused_with_a_message(
    make_card: Callable[..., Any], subtests: pytest.Subtests
) -> None:
    card = make_card()
    load(card)
    choices: tuple[object, ...] = (None, 7, "cat", ["../../etc"], [{}], {"a": 1}, ["mouse"] * 3)
    for names, weights in product(choices, (None, 7, [1], {"cat": [1]}, {"mouse": {}})):
        with subtests.test(names=names, weights=weights):
            card.describe(names, weights)
            card.list_loras(names, weights)
            shown = last(card, card.apply, names, weights)
            assert "internal" not in shown[card.status].lower() and card._app.models.status.loras == ()


def test_guests_are_refused(make_card: Callable[..., Any]) -> None:
    card = make_card("--multi-user")
    load(card)
    for shown in (last(card, card.apply, ["cat"], {}), last(card, card.remove_all)):
        assert "--multi-user" in shown[card.status]
    assert card._app.models.status.loras == ()


def test_loras_that_only_the_server_has_are_chosen_and_applied_by_their_names(make_card: Callable[..., Any]) -> None:
    def complete(request: Request) -> Reply:
        change = 1.5 if request.json()["model"] == "banana" else 0.0
        return Reply(json={"choices": [{"logprobs": {"top_logprobs": [{"a": -1.0 - change, "b": -2.0}]}}]})

    with FakeServer() as server:
        entries = [{"id": "m", "owned_by": "vllm"}, {"id": "banana", "owned_by": "vllm", "parent": "m"}]
        server.add("/v1/models", Reply(json={"data": entries}))
        server.add("/v1/completions", complete)
        card = make_card("--server-url", server.url, "--server-model", "m", "--lora", "banana")
        app = card._app
        app.loading.load(app.planner.plan(LoadRequest(app.named_model)))
        assert [(lora.name, lora.effect) for lora in app.models.status.loras] == [("banana", 1.5)]
        opened = card.open_page()
        assert opened[card.names]["choices"] == ["banana", "cat", "cut", "dog.gguf", "fail", "kill", "wide"]
        assert opened[card.names]["value"] == ["banana"] and "on the server" in opened[card.rows]
        last(card, card.remove_all)
        assert app.models.status.loras == ()
        assert "<b>banana</b>" in last(card, card.apply, ["banana"], {})[card.status]
        assert "does not offer it" in last(card, card.apply, ["nothing"], {})[card.status]
        assert [lora.name for lora in app.models.status.loras] == ["banana"], "the former one is still applied"
        app.models.unload()
    assert card.follow()[card.names] == gr.update(choices=["cat", "cut", "dog.gguf", "fail", "kill", "wide"])
