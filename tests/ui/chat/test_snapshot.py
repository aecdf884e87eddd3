"""A conversation whose last answer failed shows why, and offers to load a model that has ended."""

from __future__ import annotations

import os
import signal
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


@pytest.mark.usefixtures("new_processes")
def test_a_model_that_has_ended_can_be_loaded_again_until_one_is_ready(make_app: Callable[..., App]) -> None:
    app = make_app()
    model = echo_plans.load(app.models)
    os.kill(model.pid, signal.SIGKILL)
    echo_plans.wait_until(lambda: model.death is not None)
    for state in ("ready", "failed"):  # the status follows a little later
        ended = shown(app, DIED)
        assert "SIGKILL" in ended["error"] and ended["load"] == "good", state
        echo_plans.wait_until(lambda: app.models.status.state == "failed")
    echo_plans.load(app.models)
    ready = shown(app, DIED)
    assert ready["error"] == "" and "load" not in ready


def test_a_model_that_was_unloaded_since_is_not_offered(make_app: Callable[..., App]) -> None:
    found = shown(make_app(), DIED)
    assert "SIGKILL" in found["error"] and found["load"] == ""


@pytest.mark.usefixtures("new_processes")
def test_other_failures_are_shown_without_an_offer(make_app: Callable[..., App], subtests: pytest.Subtests) -> None:
    app, guests = make_app(), make_app("--multi-user")
    for one in (app, guests):
        os.kill(echo_plans.load(one.models).pid, signal.SIGKILL)
        echo_plans.wait_until(lambda: one.models.status.state == "failed")  # noqa: B023 (called at once)
    for error in (GenerationFailed("l", "full"), WorkerStuck(1, both("generating"))):
        with subtests.test(type(error).__name__):
            found = shown(app, error)
            assert found["error"] and found["load"] == ""
    assert shown(guests, DIED)["load"] == ""
