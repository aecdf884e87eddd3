"""The button that installs the packages of the chosen loader, with real pip, offline."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest

from modules.app import App
from modules.loaders.overlay import Overlay
from modules.loaders.registry import LOADERS, Loader
from modules.ui.gradio_import import gradio
from tests.conftest import ECHO
from tests.support.package_index import PackageIndex
from tests.support.page_parts import model_tab

gr = gradio()
NAME = "SmolLM2-135M-Instruct.Q4_1.gguf"
BOOM = "boom if loaded.gguf"


@pytest.fixture
def index(package_index: PackageIndex) -> PackageIndex:
    package_index.add_slow()
    return package_index


@pytest.fixture
def loader(tmp_path: Path, index: PackageIndex, monkeypatch: pytest.MonkeyPatch) -> Loader:
    """A row of the table for GGUF models, whose overlay is absent."""
    overlay = Overlay("of-test", 7, tmp_path)
    overlay.requirements.write_text("slowly==1.0\n")
    row = dataclasses.replace(ECHO, packages=("slowly",), overlay=overlay)
    monkeypatch.setitem(cast(dict[str, Loader], LOADERS), row.name, row)
    return row


@pytest.fixture
def make_tab(smollm2: Path, tmp_path: Path, make_app: Callable[..., App], loader: Loader) -> Callable[..., Any]:
    (tmp_path / "models" / NAME).symlink_to(smollm2)

    def make(*words: str) -> Any:
        return model_tab(make_app(*words))

    return make


@pytest.fixture
def tab(make_tab: Callable[..., Any]) -> Any:
    return make_tab()


def form(tab: Any, loader: object = "echo", name: str = NAME) -> dict[Any, object]:
    chosen = tab.show(name)
    values = chosen[tab.options.baseline]["values"]
    given = {tab.widgets[key]: value for key, value in values.items()}
    return {tab.model: name, tab.loader: loader, tab.options.baseline: chosen[tab.options.baseline], **given}


def explained(tab: Any, loader: object = "echo") -> dict[Any, Any]:
    return asyncio.run(tab.explain(form(tab, loader)))


def pressed(tab: Any, loader: object = "echo") -> dict[Any, Any]:
    return asyncio.run(tab.install.press(form(tab, loader)))


def watched(tab: Any, loader: object = "echo") -> dict[Any, Any]:
    """What the page's timer shows when nothing moves any more."""
    until = time.monotonic() + 60
    while True:
        updates: dict[Any, Any] = asyncio.run(tab.install.poll(form(tab, loader)))
        if tab.install.timer in updates:
            return updates
        assert time.monotonic() < until
        time.sleep(0.05)


def label(tab: Any, updates: dict[Any, Any]) -> str:
    """What stands on the button; nothing if it is not shown."""
    button = updates[tab.install.button]
    return button["value"] if button["visible"] else ""


def is_watching(tab: Any, updates: dict[Any, Any]) -> bool:
    return bool(updates[tab.install.timer].active)


def test_installation_is_offered_only_if_packages_are_missing(tab: Any) -> None:
    updates = explained(tab)
    assert label(tab, updates) == "Install (7 MB)" and not is_watching(tab, updates)
    assert "its packages (7 MB)" in updates[tab.notes]
    assert label(tab, explained(tab, "llama.cpp")) == ""
    assert label(tab, asyncio.run(tab.explain({**form(tab), tab.model: None}))) == ""
    assert label(tab, asyncio.run(tab.explain({**form(tab), tab.widgets["tensor_split"]: "30,,70"}))) == ""


def test_installation_is_not_offered_if_a_gpu_is_missing(
    tab: Any, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.loaders.availability._has_nvidia_gpu", lambda: False)
    monkeypatch.setitem(
        cast(dict[str, Loader], LOADERS), "echo", dataclasses.replace(loader, kernels="no_such_kernels")
    )
    updates = explained(tab)
    assert label(tab, updates) == "" and "NVIDIA" in updates[tab.notes]
    assert "NVIDIA" in pressed(tab)[tab.notes]
    assert loader.overlay is not None and not loader.overlay.folder.parent.exists()


def test_one_click_installs_and_the_form_becomes_usable(tab: Any, index: PackageIndex) -> None:
    updates = pressed(tab)
    assert label(tab, updates) == "Cancel installation" and is_watching(tab, updates)
    index.await_builders(1)
    assert "0 of 1 packages" in asyncio.run(tab.install.poll(form(tab)))[tab.notes]
    again = explained(tab)  # as of a page that has been opened again
    assert is_watching(tab, again) and "0 of 1 packages" in again[tab.notes]
    index.open_gate()
    updates = watched(tab)
    assert label(tab, updates) == "" and not is_watching(tab, updates)
    assert "<pre>" in updates[tab.notes] and "its packages (" not in updates[tab.notes]
    assert ("echo", "echo") in updates[tab.loader]["choices"], "it is no longer said to be unavailable"


def test_damaged_packages_found_by_a_load_can_be_reinstalled(
    tab: Any, loader: Loader, index: PackageIndex, smollm2: Path, tmp_path: Path
) -> None:
    async def load() -> dict[Any, Any]:
        return [updates async for updates in tab.start(form(tab, name=BOOM))][-1]

    (tmp_path / "models" / BOOM).symlink_to(smollm2)
    index.open_gate()
    pressed(tab)
    assert label(tab, watched(tab)) == ""
    updates = asyncio.run(load())
    assert "the echo engine broke" in updates[tab.status] and tab.install.button not in updates
    assert loader.overlay is not None
    (loader.overlay.folder / "slowly" / "__init__.py").write_text("")
    updates = asyncio.run(load())
    assert "are damaged (slowly/__init__.py)" in updates[tab.status] and label(tab, updates) == "Install (7 MB)"
    assert label(tab, pressed(tab)) == "Cancel installation"
    assert label(tab, watched(tab)) == "" and loader.overlay.find_damage() == ""


def test_a_second_click_cancels(tab: Any, index: PackageIndex) -> None:
    pressed(tab)
    index.await_builders(1)
    pressed(tab)
    updates = watched(tab)
    assert label(tab, updates) == "Install (7 MB)" and "its packages (" in updates[tab.notes]


def test_a_failure_shows_pips_output_folded_and_can_be_retried(tab: Any, loader: Loader) -> None:
    assert loader.overlay is not None
    loader.overlay.requirements.write_text("never-published==1\n")
    pressed(tab)
    updates = watched(tab)
    assert label(tab, updates) == "Install (7 MB)"
    alert, _, folded = updates[tab.notes].partition('role="alert"')[2].partition("<details>")
    assert "no version for this Python" in alert and "never-published" in folded


def test_guests_install_nothing(make_tab: Callable[..., Any], loader: Loader) -> None:
    tab = make_tab("--multi-user")
    assert tab.install.button.interactive is False
    assert 'role="alert"' in pressed(tab)[tab.notes]
    assert loader.overlay is not None and not loader.overlay.folder.parent.exists()


@pytest.mark.parametrize("name", [None, 5, ["echo"], {}, "no such loader", "Transformers", "ExLlamav2"], ids=repr)
def test_installing_for_a_loader_without_packages_is_refused(tab: Any, name: object) -> None:
    assert 'role="alert"' in pressed(tab, name)[tab.notes]
