"""Deleting models with their settings, and what must not be deleted."""

from __future__ import annotations

import dataclasses
import errno
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from modules.app import App
from modules.catalog.errors import NotDeletable
from modules.catalog.record import ModelRecord
from modules.core.errors import ModelNotFound, SettingsError, Unsupported, both
from modules.downloads.record import DownloadSpec
from modules.engines.prompt_cache.folder import PromptFolder, model_key
from modules.planning.model_deletion import ModelDeletion
from tests.engines.prompt_cache import prompts as saved
from tests.support import echo_plans
from tests.support.checkpoint_files import checkpoint, put
from tests.support.downloading import until
from tests.support.gguf_files import gguf
from tests.support.hub_server import HubServer

MakeApp = Callable[..., App]


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    put(folder / "a.gguf", gguf())
    put(folder / "b.gguf", gguf())
    return folder


@pytest.fixture
def app(make_app: MakeApp, models: Path) -> App:
    return make_app()


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with HubServer() as started:
        started.add("some/repo", {"a.gguf": bytes(3_000_000)})
        yield started


def save(app: App, name: str, n_ctx: int) -> None:
    app.model_settings.save(name, "llama.cpp", {"n_ctx": n_ctx}, ["n_ctx"])


def test_saved_prompts_of_a_model_are_deleted_with_it(app: App, models: Path, tmp_path: Path) -> None:
    prompts = PromptFolder(tmp_path / "prompts", 0)
    for name in ("a.gguf", "b.gguf"):
        saved.save(
            saved.open_store(prompts.path, key=dataclasses.replace(saved.KEY, model=model_key(models / name))),
            saved.prompt(300),
        )
    deletion = ModelDeletion(app.catalog, app.model_settings, app.models, app.downloads, app.record, prompts)
    deletion.delete("a.gguf")
    assert [file.path.name[:16] for file in prompts.files()] == [model_key(models / "b.gguf")]


def test_settings_are_deleted_and_restored_with_their_model(app: App) -> None:
    save(app, "a.gguf", 512)
    save(app, "b.gguf", 1024)
    entry = app.deletion.delete("a.gguf")
    assert app.model_settings.get("a.gguf") == {} and app.model_settings.get("b.gguf")["n_ctx"] == 1024
    app.deletion.restore(entry.id)
    assert app.model_settings.get("a.gguf") == {"loader": "llama.cpp", "n_ctx": 512}
    assert app.deletion.entries() == []


def test_settings_saved_for_a_new_model_of_the_same_name_are_kept(app: App, models: Path) -> None:
    save(app, "a.gguf", 512)
    entry = app.deletion.delete("a.gguf")
    save(app, "a.gguf", 2048)
    app.deletion.restore(entry.id)
    assert app.model_settings.get("a.gguf")["n_ctx"] == 2048


def test_an_unknown_model_is_not_deleted(app: App) -> None:
    with pytest.raises(ModelNotFound):
        app.deletion.delete("../a.gguf")


def be_in_memory(app: App, state: str) -> None:
    """Have the model a.gguf in this state, though not as the page's model."""
    word = "slow" if state == "loading" else "good"
    record = ModelRecord("a.gguf", Path("/models") / word, "gguf", size=0)
    plan = dataclasses.replace(echo_plans.plan(), record=record)
    request = app.models.request("a.gguf", lambda: plan, keep_alive=0 if state == "asleep" else None)
    if state != "loading":
        with request.result(timeout=10):
            pass
    until(lambda: [one.state for one in app.models.residents()] == [state])


@pytest.mark.parametrize("state", ["loading", "ready", "asleep"])
def test_a_model_in_memory_or_asleep_is_not_deleted(app: App, models: Path, state: str) -> None:
    save(app, "a.gguf", 512)
    be_in_memory(app, state)
    with pytest.raises(NotDeletable, match="Unload it first"):
        app.deletion.delete("a.gguf")
    assert app.model_settings.get("a.gguf")["n_ctx"] == 512
    app.deletion.delete("b.gguf")
    assert (models / "a.gguf").is_file() and not (models / "b.gguf").exists()


def test_a_model_that_could_not_be_loaded_is_forgotten_with_its_deletion(app: App) -> None:
    record = ModelRecord("a.gguf", Path("/models/fail"), "gguf", size=0)
    with pytest.raises(Unsupported):
        app.models.load(dataclasses.replace(echo_plans.plan(), record=record))
    assert app.models.status.state == "failed"
    app.deletion.delete("a.gguf")
    assert app.models.residents() == () and app.models.status.state == "empty"


def test_a_bin_that_cannot_be_emptied_does_not_keep_the_program_from_starting(app: App, models: Path) -> None:
    entry = app.deletion.delete("a.gguf")
    folder = models / ".trash" / entry.id
    content = (folder / "entry.json").read_text()
    (folder / "entry.json").write_text(content.replace(str(entry.deleted), "1000.0"))
    folder.rename(models.parent / "elsewhere")
    folder.symlink_to(models.parent / "elsewhere")  # a link is not deleted
    app.deletion.sweep()
    assert [found.id for found in app.deletion.entries()] == [entry.id]


def test_files_of_a_running_download_are_not_deleted(app: App, hub: HubServer) -> None:
    app.mirrors.choose(hub.url)
    hub.fault(r"resolve/.*a\.gguf", delay=30)
    job = app.downloads.start(DownloadSpec("some/repo", "main", "", ("a.gguf",)))
    with pytest.raises(NotDeletable, match="download"):
        app.deletion.delete("a.gguf")
    app.downloads.cancel(job)
    until(lambda: app.downloads.snapshot()[0].state == "cancelled")
    app.deletion.delete("a.gguf")


def test_what_was_deleted_long_ago_is_gone_after_a_start(app: App, models: Path, make_app: MakeApp) -> None:
    recent, old = app.deletion.delete("a.gguf"), app.deletion.delete("b.gguf")
    folder = models / ".trash"
    file = folder / old.id / "entry.json"
    file.write_text(file.read_text().replace(str(old.deleted), "1000.0"))
    make_app().sweep()
    assert [path.name for path in folder.iterdir()] == [recent.id]


def test_settings_stay_if_the_disk_refuses_to_move_the_model(
    app: App, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    save(app, "a.gguf", 512)
    monkeypatch.setattr(os, "rename", refuse)
    with pytest.raises(NotDeletable, match="Read-only file system"):
        app.deletion.delete("a.gguf")
    assert app.model_settings.get("a.gguf") == {"loader": "llama.cpp", "n_ctx": 512}
    assert (models / "a.gguf").is_file() and app.deletion.entries() == []


def test_settings_stay_if_those_of_another_model_in_the_folder_cannot_be_removed(
    app: App, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(models / "llama")
    put(models / "llama" / "extra.gguf", gguf())
    save(app, "llama", 512)
    remove = app.model_settings.remove

    def refuse_extra(name: str) -> Mapping[str, object]:
        if name == "llama/extra.gguf":
            raise SettingsError("config-user.yaml", both("No space left on device"))
        return remove(name)

    monkeypatch.setattr(app.model_settings, "remove", refuse_extra)
    with pytest.raises(SettingsError):
        app.deletion.delete("llama")
    assert app.model_settings.get("llama") == {"loader": "llama.cpp", "n_ctx": 512}


def test_a_folder_that_a_running_download_will_replace_is_not_deleted(app: App, models: Path, hub: HubServer) -> None:
    put(models / "mine" / "part.gguf", gguf())
    app.mirrors.choose(hub.url)
    hub.fault(r"resolve/.*a\.gguf", delay=30)
    job = app.downloads.start(DownloadSpec("some/repo", "main", "mine"))
    with pytest.raises(NotDeletable, match="download"):
        app.deletion.delete("mine/part.gguf")
    app.deletion.delete("a.gguf")
    app.downloads.cancel(job)
