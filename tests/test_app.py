"""The application: models named on the command line, settings files, and a real model from load to unload."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.core.errors import ModelNotFound, NoModelLoaded, SettingsError, UnknownLoader, UnknownOption
from modules.core.events import Text
from modules.core.prompt import Prompt
from modules.core.worker_errors import WorkerDied
from modules.loaders.generation_settings import resolve
from modules.loaders.load_settings import Setting
from modules.planning.load_request import LoadRequest
from tests.planning.test_planner import setting
from tests.support.checkpoint_files import put
from tests.support.gguf_files import MODEL, gguf
from tests.support.lora_files import peft

MakeApp = Callable[..., App]


@pytest.mark.parametrize("name", ["tiny-7B", "tiny-7B.gguf"])
def test_a_model_is_found_with_or_without_its_extension(small_models: Path, make_app: MakeApp, name: str) -> None:
    record = make_app("--model", name).named_model
    assert record is not None
    assert record.name == "tiny-7B.gguf"


def test_a_model_may_be_named_by_its_path(small_models: Path, make_app: MakeApp, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.gguf"
    elsewhere.write_bytes(gguf())
    app = make_app("--model", str(elsewhere), "--n_ctx=1000")
    assert app.named_model is not None
    assert app.named_model.path == elsewhere
    assert app.planner.plan(LoadRequest(app.named_model)).settings["n_ctx"] == Setting(1000, "flag")
    assert app.record(str(elsewhere)) == app.named_model


def test_a_model_that_chats_is_proposed_before_others(make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "models" / "a-embed.gguf").write_bytes(gguf({**MODEL, "llama.pooling_type": 1}))
    assert make_app().default_model() == "a-embed.gguf"
    (tmp_path / "models" / "b.gguf").write_bytes(gguf())
    assert make_app().default_model() == "b.gguf"
    assert make_app().default_model("a-embed.gguf") == "a-embed.gguf"


def test_a_model_outside_the_folder_does_not_hide_one_of_the_same_name(
    small_models: Path, make_app: MakeApp, tmp_path: Path
) -> None:
    folder = tmp_path / "other"
    folder.mkdir()
    outside = folder / next(small_models.glob("*.gguf")).name
    outside.write_bytes(gguf())
    app = make_app("--model", str(outside))
    assert app.record(outside.name).path == small_models / outside.name
    assert app.record(str(outside)).path == outside


def test_a_model_outside_the_folder_cannot_be_selected_by_its_path(
    small_models: Path, make_app: MakeApp, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere.gguf").write_bytes(gguf())
    for name in (str(tmp_path / "elsewhere.gguf"), "../elsewhere.gguf"):
        with pytest.raises(ModelNotFound):
            make_app().record(name)


def test_an_unknown_name_is_refused_with_the_nearest_one(small_models: Path, make_app: MakeApp) -> None:
    with pytest.raises(ModelNotFound) as model:
        make_app("--model", "tiny-8B")
    assert model.value.nearest == "tiny-7B.gguf"
    with pytest.raises(UnknownLoader) as loader:
        make_app("--loader", "lama.cpp")
    assert loader.value.nearest == "llama.cpp"
    app = make_app()
    with pytest.raises(UnknownLoader):
        app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"), "lama.cpp"))
    with pytest.raises(UnknownOption) as option:
        setting(app, "tiny-7B", "n_ctx", {"n_ctxx": 5})
    assert option.value.nearest == "n_ctx"


def test_settings_are_read_from_the_file_named_by_the_flag(make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("theme: dark\ntop_k: 7\n")
    app = make_app("--settings", str(tmp_path / "mine.yaml"))
    assert (app.settings.current.theme, app.settings.current.generation) == ("dark", {"top_k": 7})


def test_a_missing_settings_file_named_by_the_flag_is_an_error(make_app: MakeApp, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="file not found"):
        make_app("--settings", str(tmp_path / "nowhere.yaml"))


def test_the_models_folder_may_be_missing(make_app: MakeApp, tmp_path: Path) -> None:
    assert make_app("--model-dir", str(tmp_path / "nowhere")).catalog.models() == []


# -- end to end --------------------------------------------------------------------------------------------------------


def test_a_real_model_is_loaded_killed_loaded_again_and_unloaded(make_app: MakeApp, models_folder: Path) -> None:
    app = make_app("--model-dir", str(models_folder), "--n_ctx=512", "--threads=1", "--threads-batch=1")
    (record,) = app.catalog.models()
    for _ in range(2):
        model = app.loading.load(app.planner.plan(LoadRequest(record)))
        assert app.models.status.context_length == 512
        prompt, params = "The capital of France is", resolve({"temperature": 0, "max_new_tokens": 8})
        events = model.generate(Prompt(prompt), params)
        assert "Paris" in "".join(event.text for event in events if isinstance(event, Text))
        os.kill(model._worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            list(model.generate(Prompt(prompt), params))
    model = app.loading.load(app.planner.plan(LoadRequest(record)))
    assert app.models.unload() > 50 << 20
    with pytest.raises(NoModelLoaded):
        _ = app.models.current


def test_prompts_are_saved_unless_others_use_the_server(make_app: MakeApp, tmp_path: Path) -> None:
    cases = {(): 2_000_000_000, ("--prompt-cache-gb", "0.5"): 500_000_000, ("--prompt-cache-gb=0",): 0}
    for arguments, expected in (cases | {("--multi-user", "--prompt-cache-gb=5"): 0}).items():
        files = App(make_app(*arguments).flags, tmp_path / "cache" / "catalog.json").prompt_files
        assert files is not None and (files.path, files.max_bytes) == (tmp_path / "cache" / "prompts", expected)


def test_bins_are_emptied_at_start_those_of_logins_too(make_app: MakeApp) -> None:
    app = make_app()
    conversations, notebooks = app.conversations_of("me"), app.notebooks_of("me")
    conversations.delete(conversations.create().id)
    notebooks.delete(notebooks.create("a", "x").name)
    for bin in app.logs_folder.rglob(".trash"):
        (day,) = bin.iterdir()
        day.rename(bin / "20200101")
    app.sweep()
    assert (app.conversations_of("me").count_deleted(), app.notebooks_of("me").count_deleted()) == (0, 0)


def test_a_bin_that_cannot_be_emptied_is_no_reason_not_to_start(
    make_app: MakeApp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    app = make_app()
    app.conversations.delete(app.conversations.create().id)
    app.notebooks.delete(app.notebooks.create("a", "x").name)
    for bin in app.logs_folder.rglob(".trash"):
        (day,) = bin.iterdir()
        day.rename(bin / "20200101")
    monkeypatch.setattr("shutil.rmtree", refuse)
    monkeypatch.setattr(os, "unlink", refuse)
    app.sweep()
    assert caplog.text.count("Permission denied") == 2
    assert (app.conversations.count_deleted(), app.notebooks.count_deleted()) == (1, 1)


def test_without_a_folder_for_prompts_there_are_none_to_forget(make_app: MakeApp) -> None:
    app = make_app()
    assert app.prompt_files is None
    app.forget_prompts()


def test_what_killed_saves_and_downloads_left_is_swept_at_start(
    make_app: MakeApp, small_models: Path, tmp_path: Path
) -> None:
    app = make_app("--lora-dir", str(tmp_path / "loras"))
    models, loras = app.catalog.folder, app.loras.catalog.folder
    lora = peft(loras / "cat")
    (models / ".downloads" / "empty").mkdir(parents=True)
    left = [
        models / ".config-user.yaml.ab12_xyz",
        models / "..trusted.yaml.ab12_xyz",
        models / ".downloads" / ".jobs.json.new",
        app.settings.path.parent / f".{app.settings.path.name}.ab12_xyz",
        lora / ".converted" / ".llama-8-4.gguf.ab12_xyz.part",
    ]
    kept = [models / "config-user.yaml", models / ".downloads" / "other" / "00000.part", lora / "adapter_config.json"]
    for path in (*left, *kept, models / ".downloads" / "empty" / "lock", models / ".downloads" / "other" / "lock"):
        os.utime(path if path.exists() else put(path), (0, 0))
    app.sweep()
    assert [path for path in left if path.exists()] == [] and all(path.exists() for path in kept)
    assert not (models / ".downloads" / "empty").exists()
