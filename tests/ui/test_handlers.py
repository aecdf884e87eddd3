"""Errors in a page's event handlers: logged, shown as alerts, or refused for guests."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from modules.app import App
from modules.core.errors import (
    NothingPicked,
)
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, as_error
from tests.support.page_parts import AsCalled, page_parts
from tests.ui.test_ui import last

gr = gradio()


def test_an_unexpected_error_is_logged_and_shown_without_details(caplog: pytest.LogCaptureFixture) -> None:
    error = as_error(RuntimeError("a secret path"))
    assert "secret" not in error.say("en") and "text-studio.log" in error.say("zh")
    assert "a secret path" in caplog.text


class Faulty:
    """A failing handler of each kind that Gradio supports."""

    def call(self) -> dict[Any, Any]:
        raise RuntimeError("a secret path")

    async def wait(self) -> dict[Any, Any]:
        raise NothingPicked()

    async def stream(self) -> AsyncIterator[dict[Any, Any]]:
        yield {"shown": 1}
        raise NothingPicked()


@pytest.fixture
def faulty(make_app: Callable[..., App]) -> Callable[..., Any]:
    """Return a function that attaches the handlers to a button with options of `Page.on`; they write to `line`."""

    def attach(*arguments: str, **options: Any) -> Any:
        failing = Faulty()
        with page_parts() as blocks:
            button, line = gr.Button(), gr.HTML()
            page = Page(make_app(*arguments), "en")
            for handler in (failing.call, failing.wait, failing.stream):
                page.on(button.click, handler, None, [line], **{"alert": line, **options})
        bound: Any = AsCalled(blocks, failing)
        bound.line = line
        return bound

    return attach


def test_an_error_in_any_kind_of_handler_becomes_an_alert(faulty: Callable[..., Any]) -> None:
    handlers = faulty()
    assert "Internal error" in handlers.call()[handlers.line]
    assert "Select a model" in asyncio.run(handlers.wait())[handlers.line]
    assert "Select a model" in last(handlers.stream())[handlers.line]


def test_updates_yielded_before_an_error_stay(faulty: Callable[..., Any]) -> None:
    async def first_update(updates: AsyncIterator[Any]) -> Any:
        return await anext(updates)

    assert asyncio.run(first_update(faulty().stream())) == {"shown": 1}


def test_an_error_without_an_alert_component_changes_nothing(faulty: Callable[..., Any]) -> None:
    handlers = faulty(alert=None)
    assert handlers.call() == {handlers.line: gr.skip()}


def test_a_handler_can_show_errors_itself(faulty: Callable[..., Any]) -> None:
    handlers = faulty(failed=lambda error: {"error": type(error)})
    assert last(handlers.stream()) == {"error": NothingPicked}


def test_guests_are_refused_before_an_owner_only_handler_runs(faulty: Callable[..., Any]) -> None:
    handlers = faulty("--multi-user", owner_only=True)
    for updates in (handlers.call(), asyncio.run(handlers.wait()), last(handlers.stream())):
        assert "only its owner" in updates[handlers.line]


def test_gradio_adds_the_event_and_the_request_that_a_handler_asks_for(make_app: Callable[..., App]) -> None:
    def act(values: Any, event: gr.EventData, request: gr.Request) -> dict[Any, Any]:  # type: ignore[name-defined]
        return {"got": (values, event.name, request)}

    with page_parts() as blocks:
        button, line = gr.Button(), gr.HTML()
        Page(make_app(), "en").on(button.click, act, {line}, [line])
    (handler,) = [function.fn for function in blocks.fns.values()]
    event = gr.EventData(None, {"name": "a name"})
    arguments, *_ = gr.helpers.special_args(handler, ["values"], "the request", event)
    assert handler(*arguments) == {"got": ("values", "a name", "the request")}


def test_closing_the_page_closes_the_handler(faulty: Callable[..., Any]) -> None:
    async def close() -> None:
        updates = faulty().stream()
        await anext(updates)
        await updates.aclose()

    asyncio.run(close())
