"""Build a part of the page by itself, and call its handlers as a browser does."""

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
    """A `gr.Blocks` to make components in, without what takes most of its time: two web applications and a config."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gradio.blocks.App.create_app", staticmethod(lambda *_blocks, **_settings: None))
        patch.setattr("gradio.blocks.Blocks.get_config_file", lambda _blocks: {})
        with gr.Blocks() as blocks:
            yield blocks


def followers() -> ModelFollowers:
    """The components outside the Model tab that follow the model."""
    return ModelFollowers(gr.HTML(), gr.State(-1), gr.Chatbot(), gr.Number())


class AsCalled:
    """The attributes of several parts of a page in one. Handlers are those that Gradio calls: errors become updates."""

    def __init__(self, blocks: Any, *parts: object) -> None:
        self._parts = parts
        functions = [function.fn for function in blocks.fns.values() if function.fn is not None]
        self._called = {fn.__wrapped__: fn for fn in functions if hasattr(fn, "__wrapped__")}

    def __getattr__(self, name: str) -> Any:
        for part in self._parts:
            if hasattr(part, name):
                attribute = getattr(part, name)
                return self._called.get(attribute, attribute) if callable(attribute) else attribute
        raise AttributeError(name)


def model_tab(app: App) -> Any:
    """The handlers and components of a Model tab in English, with the application as `app`."""
    with page_parts() as blocks:
        tab = ModelTab(Page(app, "en"), followers())
        tab.on_page_load(blocks.load)
    called: Any = AsCalled(blocks, tab.card, tab.picker, tab.settings, tab.explanation, tab.loading, tab.form, tab)
    called.app, called.install = app, AsCalled(blocks, tab.options.install)
    called.widgets, called.loader, called.notes = tab.options.widgets, tab.options.loader, tab.options.notes
    return called
