"""The rest of the Session page: what guests see, the look, storage, versions and the log."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from modules.app import App
from modules.config.flags_file import FlagsFile
from modules.config.presets import Presets
from modules.engines.prompt_cache.folder import PromptFolder
from modules.options.generation import PARAMETERS
from modules.setup.installed import Package
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.session import versions_card
from modules.ui.session.tab import SessionTab
from modules.ui.widgets.option_form import OptionForm
from tests.engines.prompt_cache import prompts as saved
from tests.support.page_parts import AsCalled, page_parts

gr = gradio()


@pytest.fixture
def make_tab(make_app: Callable[..., App], tmp_path: Path) -> Callable[..., Any]:
    def make(*flags: str) -> Any:
        app = make_app("--lora-dir", str(tmp_path / "loras"), *flags)
        app.flags_file = FlagsFile(tmp_path / "CMD_FLAGS.txt")
        app.presets = Presets(tmp_path / "presets")
        with page_parts() as blocks:
            page = Page(app, "en")
            tab = SessionTab(page)
            tab.listen(blocks.load, OptionForm([*PARAMETERS.values()], "en", "tx-gen").widgets)
        called: Any = AsCalled(blocks, tab)
        called.app = app
        for name in ("settings", "flags", "storage", "versions", "log"):
            setattr(called, name, AsCalled(blocks, getattr(tab, name)))
        return called

    return make


def opened(tab: Any, language: str = "") -> Any:
    cookies = {"tx-language": language} if language else {}
    return tab.open(SimpleNamespace(cookies=cookies))


def last(updates: AsyncIterator[Any]) -> Any:
    async def read() -> Any:
        return [one async for one in updates][-1]

    return asyncio.run(read())


def pressed(**data: object) -> Any:
    return SimpleNamespace(_data=data)


def test_opening_the_page_shows_what_takes_no_time(make_tab: Callable[..., Any]) -> None:
    tab = make_tab()
    shown = opened(tab, "zh")
    assert set(shown) == {tab.look, tab.settings.part, tab.flags.part, tab.log.part}
    assert all(shown.values())
    assert 'value="zh" data-go="/language/zh#session" checked' in shown[tab.look]
    assert 'value="auto" data-go="/language/auto#session" checked' in opened(tab)[tab.look]


def test_guests_see_only_the_look(make_tab: Callable[..., Any], tmp_path: Path) -> None:
    tab = make_tab("--multi-user")
    shown = opened(tab)
    assert set(shown) == {tab.look} and "You are a guest" in shown[tab.look]
    for updates in (tab.log.refresh(pressed()), last(tab.storage.show()), asyncio.run(tab.versions.show())):
        assert not any(isinstance(value, str) and value for value in updates.values())


def test_storage_shows_folders_with_their_sizes_and_paths(make_tab: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "models" / ".downloads").mkdir()
    (tmp_path / "models" / "x.gguf").write_bytes(b"x" * 2000)
    (tmp_path / "models" / ".downloads" / "part").write_bytes(b"x" * 300)
    (tmp_path / "logs" / "attachments").mkdir(parents=True)
    (tmp_path / "logs" / "attachments" / "a").write_bytes(b"x" * 40)
    tab = make_tab()
    html = last(tab.storage.show())[tab.storage.part]
    assert "2.00 KB" in html and "300 B" in html and "40 B" in html and str(tmp_path / "models") in html
    assert "Unfinished downloads of models" in html and "free on the disk" in html


def test_a_bin_is_listed_and_emptied(make_tab: Callable[..., Any], tmp_path: Path) -> None:
    tab = make_tab()
    tab.app.presets.save("mine", {"temperature": 1.5})
    tab.app.presets.delete("mine")
    conversation = tab.app.conversations.create(title="<b>Secret plan</b>")
    tab.app.conversations.delete(conversation.id)
    html = last(tab.storage.show())[tab.storage.part]
    assert "Presets (1)" in html and "mine.yaml" in html
    assert "Conversations (1)" in html and "&lt;b&gt;Secret plan" in html
    assert 'data-sure="Delete 1 for good"' in html
    html = last(tab.storage.empty(pressed(bin="ss_bin_conversations")))[tab.storage.part]
    assert "Emptied." in html and tab.app.conversations.deleted() == [] and "Presets (1)" in html
    html = last(tab.storage.empty(pressed(bin="ss_bin_presets")))[tab.storage.part]
    assert "The bin is empty." in html and not list((tmp_path / "presets" / ".trash").iterdir())


def test_a_folder_that_takes_long_to_measure_is_shown_with_what_is_known(
    make_tab: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.ui.session.storage_card.SECONDS", -1.0)
    (tmp_path / "models" / "x.gguf").write_bytes(b"x" * 2000)
    tab = make_tab()
    assert "at least " in last(tab.storage.show())[tab.storage.part]


def test_a_bin_that_cannot_be_emptied_says_why(make_tab: Callable[..., Any], tmp_path: Path) -> None:
    tab = make_tab()
    tab.app.conversations.delete(tab.app.conversations.create(title="kept").id)
    (tmp_path / "logs" / ".lock").unlink()
    (tmp_path / "logs" / ".lock").mkdir()
    html = last(tab.storage.empty(pressed(bin="ss_bin_conversations")))[tab.storage.part]
    assert 'role="alert"' in html and "Emptied." not in html and "Conversations (1)" in html


def test_folders_that_are_missing_are_left_out(
    make_tab: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("modules.ui.session.storage_card.ROOT", tmp_path / "gone")
    tab = make_tab()
    assert "free on the disk" in last(tab.storage.show())[tab.storage.part]
    (tmp_path / "models").rename(tmp_path / "unplugged")
    html = last(tab.storage.show())[tab.storage.part]
    assert "free on the disk" not in html and "0 B" in html and "gone" not in html


def test_saved_prompts_are_listed_and_emptied(make_tab: Callable[..., Any], tmp_path: Path) -> None:
    tab = make_tab()
    assert "Saved prompts" not in last(tab.storage.show())[tab.storage.part]
    tab.app.prompt_files = PromptFolder(tmp_path / "prompts", 0)
    saved.save(saved.open_store(tmp_path / "prompts"), saved.prompt(1300))
    html = last(tab.storage.show())[tab.storage.part]
    assert "Prompts (1)" in html and "tiny.gguf: 1,300 tokens (26.2 KB)" in html
    html = last(tab.storage.empty(pressed(bin="ss_prompts")))[tab.storage.part]
    assert "Emptied." in html and "Saved prompts" not in html and not list((tmp_path / "prompts").iterdir())


def test_an_unknown_bin_empties_nothing(make_tab: Callable[..., Any]) -> None:
    tab = make_tab()
    conversation = tab.app.conversations.create(title="kept")
    tab.app.conversations.delete(conversation.id)
    for data in ({}, {"bin": "ss_models"}, {"bin": ["ss_bin_conversations"]}):
        assert "Emptied." not in last(tab.storage.empty(pressed(**data)))[tab.storage.part]
    assert len(tab.app.conversations.deleted()) == 1


def test_versions_are_shown_with_licenses_and_a_report(
    make_tab: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    known = ({"program": "Text Studio abc"}, {"": [Package("gradio", "6.0", "<Apache>")], "legacy": []})
    monkeypatch.setattr("modules.ui.session.versions_card._known", lambda: known)
    tab = make_tab()
    html = asyncio.run(tab.versions.show())[tab.versions.part]
    assert "&lt;Apache&gt;" in html and "Packages in overlays/legacy" in html
    assert '<pre id="tx-s-report" hidden>program: Text Studio abc\npackages: gradio 6.0</pre>' in html


def test_versions_are_looked_up_again_when_asked_for(
    make_tab: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []

    def packages() -> dict[str, list[Package]]:
        looks.append(1)
        return {"": [Package("gradio", f"6.{len(looks)}", "Apache")]}

    monkeypatch.setattr("modules.ui.session.versions_card.installed_packages", packages)
    monkeypatch.setattr("modules.ui.session.versions_card.machine", lambda: {"program": "Text Studio"})
    tab = make_tab()
    versions_card._known.cache_clear()
    for expected in ("6.1", "6.1"):
        assert expected in asyncio.run(tab.versions.show())[tab.versions.part]
    assert "6.2" in asyncio.run(tab.versions.refresh())[tab.versions.part]
    versions_card._known.cache_clear()


def test_the_log_is_shown_by_level_and_text_without_secrets(make_tab: Callable[..., Any], tmp_path: Path) -> None:
    tab = make_tab("--gradio-auth", "me:sesame", "--api-key", "key-of-mine")
    file = tmp_path / "x.log"
    file.write_text(
        "2026-11-29 22:05:43,286 ERROR a: <b>sesame</b> key-of-mine\n2026-11-29 22:05:43,286 INFO a: fine\n"
    )
    tab.log._parts[0].file = file
    html = tab.log.refresh(pressed(fields={"level": "ERROR", "text": "<B>"}))[tab.log.part]
    assert "&lt;b&gt;••••&lt;/b&gt; ••••" in html and "fine" not in html and 'value="&lt;B&gt;"' in html
    for fields in (None, {"level": "NONE", "text": 5}, {"level": ["ERROR"]}):
        assert "fine" in tab.log.refresh(pressed(fields=fields))[tab.log.part]
    assert "No matching records" in tab.log.refresh(pressed(fields={"text": "nothing"}))[tab.log.part]


def test_a_log_that_cannot_be_read_says_why(make_tab: Callable[..., Any], tmp_path: Path) -> None:
    tab = make_tab()
    tab.log._parts[0].file = tmp_path
    assert "cannot be read: Is a directory" in tab.log.refresh(pressed())[tab.log.part]
