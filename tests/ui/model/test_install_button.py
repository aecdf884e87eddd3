"""The button that installs the packages of the selected loader, with real pip, offline."""

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
from modules.setup.overlay_installer import Installation
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
    """A registered loader of GGUF models whose overlay is not installed."""
    overlay = Overlay("of-test", 7, tmp_path)
    overlay.requirements.write_text("slowly==1.0\n")
    row = dataclasses.replace(ECHO, packages=("slowly",), overlay=overlay)
    monkeypatch.setitem(cast(dict[str, Loader], LOADERS), row.name, row)
    return row


@pytest.fixture
def make_tab(smollm2: Path, tmp_path: Path, make_app: Callable[..., App], loader: Loader) -> Callable[..., Any]:
    (tmp_path / "models" / NAME).symlink_to(smollm2)

    def make(*arguments: str) -> Any:
        return model_tab(make_app(*arguments))

    return make


@pytest.fixture
def tab(make_tab: Callable[..., Any]) -> Any:
    return make_tab()


def form(tab: Any, loader: object = "echo", name: str = NAME) -> dict[Any, object]:
    shown = tab.show(name)
    values = shown[tab.options.baseline]["values"]
    fields = {tab.widgets[key]: value for key, value in values.items()}
    return {tab.model: name, tab.loader: loader, tab.options.baseline: shown[tab.options.baseline], **fields}


def explain(tab: Any, loader: object = "echo") -> dict[Any, Any]:
    return asyncio.run(tab.explain(form(tab, loader)))


def press(tab: Any, loader: object = "echo") -> dict[Any, Any]:
    return asyncio.run(tab.install.press(form(tab, loader)))


def wait_until_idle(tab: Any, loader: object = "echo") -> dict[Any, Any]:
    """Poll as the page's timer does until it stops, and return the last updates."""
    deadline = time.monotonic() + 60
    while True:
        updates: dict[Any, Any] = asyncio.run(tab.install.poll(form(tab, loader)))
        if tab.install.timer in updates:
            return updates
        assert time.monotonic() < deadline
        time.sleep(0.05)


def label(tab: Any, updates: dict[Any, Any]) -> str:
    """Return the text of the button, or "" if the button is hidden."""
    button = updates[tab.install.button]
    return button["value"] if button["visible"] else ""


def is_polling(tab: Any, updates: dict[Any, Any]) -> bool:
    return bool(updates[tab.install.timer].active)


def test_installation_is_offered_only_if_packages_are_missing(tab: Any) -> None:
    updates = explain(tab)
    assert label(tab, updates) == "Install (7 MB)" and not is_polling(tab, updates)
    assert "its packages (7 MB)" in updates[tab.notes]
    assert label(tab, explain(tab, "llama.cpp")) == ""
    assert label(tab, asyncio.run(tab.explain({**form(tab), tab.model: None}))) == ""
    assert label(tab, asyncio.run(tab.explain({**form(tab), tab.widgets["tensor_split"]: "30,,70"}))) == ""


def test_installation_is_not_offered_if_a_gpu_is_missing(
    tab: Any, loader: Loader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.loaders.availability.has_nvidia_gpu", lambda: False)
    monkeypatch.setitem(
        cast(dict[str, Loader], LOADERS), "echo", dataclasses.replace(loader, kernels="no_such_kernels")
    )
    updates = explain(tab)
    assert label(tab, updates) == "" and "NVIDIA" in updates[tab.notes]
    assert "NVIDIA" in press(tab)[tab.notes]
    assert loader.overlay is not None and not loader.overlay.folder.parent.exists()


def test_one_click_installs_and_the_form_becomes_usable(tab: Any, index: PackageIndex) -> None:
    updates = press(tab)
    assert label(tab, updates) == "Cancel installation" and is_polling(tab, updates)
    index.await_builders(1)
    assert "0 of 1 packages" in asyncio.run(tab.install.poll(form(tab)))[tab.notes]
    reopened = explain(tab)  # as on a page that was opened again
    assert is_polling(tab, reopened) and "0 of 1 packages" in reopened[tab.notes]
    index.open_gate()
    updates = wait_until_idle(tab)
    assert label(tab, updates) == "" and not is_polling(tab, updates)
    assert "<pre>" in updates[tab.notes] and "its packages (" not in updates[tab.notes]
    assert ("echo", "echo") in updates[tab.loader]["choices"], "the loader is no longer marked as unavailable"


def test_damaged_packages_found_by_a_load_can_be_reinstalled(
    tab: Any, loader: Loader, index: PackageIndex, smollm2: Path, tmp_path: Path
) -> None:
    async def load() -> dict[Any, Any]:
        return [updates async for updates in tab.start(form(tab, name=BOOM))][-1]

    (tmp_path / "models" / BOOM).symlink_to(smollm2)
    index.open_gate()
    press(tab)
    assert label(tab, wait_until_idle(tab)) == ""
    updates = asyncio.run(load())
    assert "the echo engine broke" in updates[tab.status] and tab.install.button not in updates
    assert loader.overlay is not None
    (loader.overlay.folder / "slowly" / "__init__.py").write_text("")
    updates = asyncio.run(load())
    assert "are damaged (slowly/__init__.py)" in updates[tab.status] and label(tab, updates) == "Install (7 MB)"
    assert label(tab, press(tab)) == "Cancel installation"
    assert label(tab, wait_until_idle(tab)) == "" and loader.overlay.find_damage() == ""


def test_a_second_click_cancels(tab: Any, index: PackageIndex) -> None:
    press(tab)
    index.await_builders(1)
    press(tab)
    updates = wait_until_idle(tab)
    assert label(tab, updates) == "Install (7 MB)" and "its packages (" in updates[tab.notes]


def test_a_failure_shows_pips_output_folded_and_can_be_retried(tab: Any, loader: Loader) -> None:
    assert loader.overlay is not None
    loader.overlay.requirements.write_text("never-published==1\n")
    press(tab)
    updates = wait_until_idle(tab)
    assert label(tab, updates) == "Install (7 MB)"
    alert, _, folded = updates[tab.notes].partition('role="alert"')[2].partition("<details>")
    assert "no version for this Python" in alert and "never-published" in folded


def test_guests_cannot_install_packages(make_tab: Callable[..., Any], loader: Loader) -> None:
    tab = make_tab("--multi-user")
    assert tab.install.button.interactive is False
    assert 'role="alert"' in press(tab)[tab.notes]
    assert loader.overlay is not None and not loader.overlay.folder.parent.exists()


@pytest.mark.parametrize("name", [None, 5, ["echo"], {}, "no such loader", "Transformers", "ExLlamav2"], ids=repr)
def test_installing_for_a_loader_without_packages_is_refused(tab: Any, name: object) -> None:
    assert 'role="alert"' in press(tab, name)[tab.notes]


def test_the_progress_of_another_process_is_shown_once_it_reports_any(make_app: Callable[..., App]) -> None:
    install, waiting = model_tab(make_app()).install, Installation("waiting")
    assert install._progress(waiting) == install._page.info("install_waiting")
    reported = install._progress(dataclasses.replace(waiting, done=1, total=4, last_line="<b>"))
    assert "1" in reported and 'class="tx-bar"' in reported and "&lt;b&gt;" in reported
