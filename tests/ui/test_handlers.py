"""The error edge of the page: what becomes of an error in a handler."""

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
    told = as_error(RuntimeError("a secret path"))
    assert "secret" not in told.say("en") and "text-studio.log" in told.say("zh")
    assert "a secret path" in caplog.text


class Faulty:
    """Handlers of each kind that Gradio knows, which show something and fail, or refuse."""

    def call(self) -> dict[Any, Any]:
        raise RuntimeError("a secret path")

    async def wait(self) -> dict[Any, Any]:
        raise NothingPicked()

    async def stream(self) -> AsyncIterator[dict[Any, Any]]:
        yield {"shown": 1}
        raise NothingPicked()


@pytest.fixture
def faulty(make_app: Callable[..., App]) -> Callable[..., Any]:
    """Attaches the handlers to a button, with these arguments of `Page.on`; `line` is where they write."""

    def attach(*words: str, **options: Any) -> Any:
        part = Faulty()
        with page_parts() as blocks:
            button, line = gr.Button(), gr.HTML()
            page = Page(make_app(*words), "en")
            for handler in (part.call, part.wait, part.stream):
                page.on(button.click, handler, None, [line], **{"alert": line, **options})
        called: Any = AsCalled(blocks, part)
        called.line = line
        return called

    return attach


def test_an_error_of_any_kind_of_handler_becomes_an_alert(faulty: Callable[..., Any]) -> None:
    part = faulty()
    assert "Internal error" in part.call()[part.line]
    assert "Select a model" in asyncio.run(part.wait())[part.line]
    assert "Select a model" in last(part.stream())[part.line]


def test_updates_yielded_before_an_error_stay(faulty: Callable[..., Any]) -> None:
    async def first(updates: AsyncIterator[Any]) -> Any:
        return await anext(updates)

    assert asyncio.run(first(faulty().stream())) == {"shown": 1}


def test_an_error_without_a_component_to_show_it_changes_nothing(faulty: Callable[..., Any]) -> None:
    part = faulty(alert=None)
    assert part.call() == {part.line: gr.skip()}


def test_a_handler_can_show_errors_itself(faulty: Callable[..., Any]) -> None:
    part = faulty(failed=lambda error: {"error": type(error)})
    assert last(part.stream()) == {"error": NothingPicked}


def test_guests_are_refused_before_an_owner_only_handler_runs(faulty: Callable[..., Any]) -> None:
    part = faulty("--multi-user", owner_only=True)
    for updates in (part.call(), asyncio.run(part.wait()), last(part.stream())):
        assert "only its owner" in updates[part.line]


def test_closing_the_page_closes_the_handler(faulty: Callable[..., Any]) -> None:
    async def close() -> None:
        updates = faulty().stream()
        await anext(updates)
        await updates.aclose()

    asyncio.run(close())
