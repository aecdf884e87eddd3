"""The Parameters page of a program that has just been started."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from modules.app import App
from modules.config.grammars import Grammars
from modules.config.presets import Presets
from modules.ui.chat.visitors import Visitors
from modules.ui.handlers import Page
from modules.ui.parameters.tab import ParametersTab
from tests.support.page_parts import AsCalled, page_parts

MakeTab = Callable[..., Any]


@pytest.fixture
def make_tab(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MakeTab:
    """Build the tab, with presets and grammars in folders of the test. `app` gets the arguments of `make_app`."""

    def make(language: str = "en", *args: str) -> Any:
        app = make_app(*args)
        monkeypatch.setattr(app, "presets", Presets(tmp_path / "presets"))
        monkeypatch.setattr(app.settings, "_presets", app.presets)
        monkeypatch.setattr(app, "grammars", Grammars(tmp_path / "grammars"))
        with page_parts() as blocks:
            tab = ParametersTab(Page(app, language), Visitors(app).store)
            tab.on_page_load(blocks.load)
        parts: Any = AsCalled(blocks, tab, tab.presets, tab.form)
        parts.app, parts.grammar = app, AsCalled(blocks, tab.grammars)
        parts.effects = AsCalled(blocks, tab.effect)
        return parts

    return make


def shown_values(tab: Any, **changes: Any) -> dict[Any, Any]:
    """Return what the browser sends: the initial values of all widgets, with `changes` by key."""
    values = {widget: widget.value for widget in tab.widgets.values()}
    values |= {tab.preset: None, tab.name: "", tab.before: {}}
    values |= {tab.grammar.file: None, tab.grammar.name: "", tab.grammar.before: {}}
    return values | {tab.widgets[key]: value for key, value in changes.items()}


def after(values: dict[Any, Any], updates: dict[Any, Any]) -> dict[Any, Any]:
    """Return what the browser sends once the `updates` are shown."""
    shown = {
        part: new["value"] if isinstance(new, dict) and "__type__" in new else new for part, new in updates.items()
    }
    return values | {part: value for part, value in shown.items() if part in values}


def report(tab: Any, updates: dict[Any, Any]) -> Any:
    """Return what the script is told."""
    return json.loads(updates[tab.bridge])
