"""What a page shows of a conversation whose last answer failed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modules.app import App
from modules.chat.run import RunState
from modules.conversations.conversation import Conversation
from modules.core.errors import WebUIError, both
from modules.core.worker_errors import GenerationFailed, WorkerDied, WorkerStuck
from modules.ui.chat.markdown import Renderer
from modules.ui.chat.snapshot import ConversationView
from modules.ui.handlers import Page
from tests.support import echo_plans

DIED = WorkerDied(-9, both("generating"))


def shown(app: App, error: WebUIError) -> dict[str, Any]:
    conversation = Conversation("c")
    conversation.add("user", "apple")
    view = ConversationView(Page(app, "en"), Renderer("en"))
    snapshot: dict[str, Any] = view.snapshot(conversation, None, RunState("c", "m", "ended", error=error))
    return snapshot


def test_a_model_that_has_ended_can_be_loaded_again_until_one_is_ready(
    make_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app()
    monkeypatch.setattr(app, "default_model", lambda: "m.gguf")
    ended = shown(app, DIED)
    assert "SIGKILL" in ended["error"] and ended["load"] == "m.gguf"
    echo_plans.load(app.models)
    ready = shown(app, DIED)
    assert ready["error"] == "" and "load" not in ready


def test_other_failures_are_shown_without_an_offer(
    make_app: Callable[..., App], monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    app = make_app()
    monkeypatch.setattr(App, "default_model", lambda _app, *_names: "m.gguf")
    for error in (GenerationFailed("l", "full"), WorkerStuck(1, both("generating"))):
        with subtests.test(type(error).__name__):
            found = shown(app, error)
            assert found["error"] and found["load"] == ""
    guests = make_app("--multi-user")
    assert shown(guests, DIED)["load"] == ""
