"""Build a part of the page alone, and call its handlers as a browser does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from modules.app import App
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.loading import ModelFollowers
from modules.ui.model.tab import ModelTab

gr = gradio()


@contextlib.contextmanager
def page_parts() -> Iterator[Any]:
    """Yield a `gr.Blocks` for components, without the two web applications and the config that make it slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradio.blocks.App.create_app", staticmethod(lambda *_blocks, **_settings: None))
        patch.setattr("gradio.blocks.Blocks.get_config_file", lambda _blocks: {})
        with gr.Blocks() as blocks:
            yield blocks


def followers() -> ModelFollowers:
    """Return the components outside the Model page that depend on the model."""
    return ModelFollowers(gr.HTML(), gr.State(-1), gr.Chatbot(), gr.Number())


class AsCalled:
    """The attributes of several parts of a page in one object.

    Handlers are wrapped as for Gradio, which turns errors into updates.
    """

    def __init__(self, blocks: Any, *parts: object) -> None:
        self._parts = parts
        functions = [function.fn for function in blocks.fns.values() if function.fn is not None]
        self._handlers = {fn.__wrapped__: fn for fn in functions if hasattr(fn, "__wrapped__")}

    def __getattr__(self, name: str) -> Any:
        for part in self._parts:
            if hasattr(part, name):
                attribute = getattr(part, name)
                return self._handlers.get(attribute, attribute) if callable(attribute) else attribute
        raise AttributeError(name)


def model_tab(app: App) -> Any:
    """Return the handlers and components of a Model page in English, and the application as `app`."""
    with page_parts() as blocks:
        tab = ModelTab(Page(app, "en"), followers())
        tab.on_page_load(blocks.load)
    parts: Any = AsCalled(blocks, tab.card, tab.picker, tab.settings, tab.explanation, tab.loading, tab.form, tab)
    parts.app, parts.install = app, AsCalled(blocks, tab.options.install)
    parts.widgets, parts.loader, parts.notes = tab.options.widgets, tab.options.loader, tab.options.notes
    return parts
