"""Saved settings on their way into a load: by page, flag and API; what is wrong with them; and what guests may do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.config.settings import read
from modules.config.yaml_file import YamlFile
from modules.core.errors import OptionError, OwnerOnly, SettingsError, Unsupported
from modules.loaders.load_settings import Setting
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.planning.load_request import LoadRequest
from modules.planning.recommendation import explain_choice
from tests.support.gguf_files import MODEL, gguf
from tests.support.serving import server_of
from tests.test_app import checkpoint

MakeApp = Callable[..., App]
NAME = "a 中文+[1] $x.gguf"


@pytest.fixture
def folder(tmp_path: Path, make_app: MakeApp) -> Path:
    """models/ of `make_app`, with two models in it."""
    folder = tmp_path / "models"
    (folder / NAME).write_bytes(gguf())
    (folder / "other.gguf").write_bytes(gguf({**MODEL, "llama.context_length": 8192}))
    return folder


def save(app: App, name: str, loader: str = "llama.cpp", **form: object) -> Path | None:
    return app.planner.save(LoadRequest(app.record(name), loader, form))


def written(folder: Path) -> dict[str, object]:
    return dict(YamlFile(folder / "config-user.yaml").read())


def test_what_is_saved_is_what_differs_from_what_the_model_gets_anyway(folder: Path, make_app: MakeApp) -> None:
    save(make_app(), NAME, n_ctx=2048, threads=0, mlock=True, n_batch=512)
    assert written(folder) == {NAME: {"loader": "llama.cpp", "n_ctx": 2048, "mlock": True}}
    save(make_app(), NAME, n_ctx=4096)  # the model's own
    assert written(folder) == {NAME: {"loader": "llama.cpp", "mlock": True}}


def test_saved_settings_stand_between_the_files_and_the_flags_for_whoever_loads(
    folder: Path, make_app: MakeApp
) -> None:
    save(make_app(), NAME, n_ctx=2048, threads=3)
    for app in (make_app(), make_app("--model", NAME)):
        assert app.planner.plan(LoadRequest(app.record(NAME))).settings["n_ctx"] == Setting(2048, "saved")
    typed = make_app("--n_ctx=1000")
    settings = typed.planner.plan(LoadRequest(typed.record(NAME), form={"threads": 5})).settings
    assert settings["n_ctx"] == Setting(1000, "flag")
    assert settings["threads"] == Setting(5, "form")
    assert make_app().planner.plan(LoadRequest(make_app().record("other.gguf"))).settings["n_ctx"] == Setting(
        8192, "model"
    )


def test_flags_of_one_start_are_not_saved(folder: Path, make_app: MakeApp) -> None:
    save(make_app("--threads", "3", "--cpu", "--n_batch", "64"), NAME, n_batch=256)
    assert written(folder) == {NAME: {"loader": "llama.cpp", "n_batch": 256}}


def test_the_api_loads_with_what_was_saved(smollm2: Path, tmp_path: Path, make_app: MakeApp) -> None:
    app = make_app("--api")
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    save(app, smollm2.name, n_ctx=768)
    with server_of(app) as server:
        answer = server.post("/internal/model/load", {"model_name": smollm2.name, "args": {"threads": 1}}).json()
    assert answer["context_length"] == 768
    assert (answer["options"]["n_ctx"], answer["options"]["threads"]) == (768, 1)


def test_the_users_loader_is_remembered_and_never_overridden(folder: Path, make_app: MakeApp, tmp_path: Path) -> None:
    record = make_app().record(NAME)
    assert make_app().planner.plan(LoadRequest(record)).loader.name == "llama.cpp"
    (tmp_path / "settings.yaml").write_text("loader_gguf: llamacpp_HF\n")
    assert make_app().planner.plan(LoadRequest(record)).loader.name == "llamacpp_HF"
    save(make_app(), NAME, "llama.cpp")
    assert make_app().planner.plan(LoadRequest(record)).loader.name == "llama.cpp"
    assert make_app("--loader", "llamacpp_HF").planner.plan(LoadRequest(record)).loader.name == "llamacpp_HF"


@pytest.mark.parametrize("saved", ["AutoGPTQ", "a loader that is gone", "5"])
def test_a_saved_loader_that_cannot_take_the_model_counts_for_nothing(
    folder: Path, make_app: MakeApp, saved: str
) -> None:
    (folder / "config-user.yaml").write_text(f"'{NAME}': {{loader: {saved}}}\n")
    assert make_app().planner.plan(LoadRequest(make_app().record(NAME))).loader.name == "llama.cpp"


def test_a_preferred_loader_has_to_take_the_format(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("loader_gguf: AutoAWQ\n")
    with pytest.raises(SettingsError, match="loader_gguf"):
        read(tmp_path / "s.yaml")


def test_a_damaged_value_is_told_and_the_others_are_used(folder: Path, make_app: MakeApp) -> None:
    (folder / "config-user.yaml").write_text(f"'{NAME}': {{n_ctx: many, threads: 3, mlock: perhaps}}\n")
    app = make_app()
    record = app.record(NAME)
    saved, problems = app.planner.validated_settings(record)
    assert saved == {"threads": 3}
    assert {each.option for each in problems if isinstance(each, OptionError)} == {"n_ctx", "mlock"}
    with pytest.raises(OptionError):  # a program is told; the form shows what is wrong and can set it right
        app.planner.plan(LoadRequest(record))
    save(app, NAME, n_ctx=512)
    assert app.planner.plan(LoadRequest(record)).settings["n_ctx"] == Setting(512, "saved")


def test_a_broken_file_is_told_with_its_place_and_kept_when_settings_are_saved(folder: Path, make_app: MakeApp) -> None:
    (folder / "config-user.yaml").write_text("a: [1\nb: 2\n")
    app = make_app()
    saved, (problem,) = app.planner.validated_settings(app.record(NAME))
    assert saved == {} and "line 2" in problem.say("en") and "第 2 行" in problem.say("zh")
    aside = save(app, NAME, threads=3)
    assert aside is not None and aside.read_text() == "a: [1\nb: 2\n"
    assert written(folder) == {NAME: {"loader": "llama.cpp", "threads": 3}}


def test_code_that_comes_with_a_model_runs_only_if_the_command_line_says_so(folder: Path, make_app: MakeApp) -> None:
    checkpoint(folder / "weights")
    (folder / "config-user.yaml").write_text("weights: {trust_remote_code: true}\n")
    plain, trusting = make_app(), make_app("--trust-remote-code")
    record = plain.record("weights")
    assert plain.planner.plan(LoadRequest(record)).settings["trust_remote_code"].value is False
    with pytest.raises(Unsupported, match="--trust-remote-code"):
        plain.planner.plan(LoadRequest(record, form={"trust_remote_code": True}))
    assert trusting.planner.plan(LoadRequest(record)).settings["trust_remote_code"].value is True


def test_autoload_is_remembered_beside_what_the_user_wrote(tmp_path: Path, make_app: MakeApp) -> None:
    (tmp_path / "settings.yaml").write_text("# mine\ntheme: dark  # at night\n")
    make_app().settings.set("autoload_model", True)
    assert make_app().settings.current.autoload_model is True
    assert (tmp_path / "settings.yaml").read_text().startswith("# mine\ntheme: dark  # at night\n")
    make_app().settings.set("autoload_model", False)
    assert make_app().settings.current.autoload_model is False


def test_with_multi_user_loading_is_the_owners_who_is_known_by_the_key(folder: Path, make_app: MakeApp) -> None:
    with pytest.raises(OwnerOnly):
        make_app("--multi-user").refuse_guests()
    make_app().refuse_guests()
    body = {"model_name": "no such model"}
    with server_of(make_app("--api", "--multi-user")) as server:
        assert server.refusal("/internal/model/load", body)["status"] == 403
        assert server.refusal("/internal/model/unload", None)["status"] == 403
    with server_of(make_app("--api", "--multi-user", "--api-key", "k")) as server:
        assert server.refusal("/internal/model/load", body, Authorization="Bearer k")["status"] == 404


def test_for_each_format_that_a_loader_takes_there_is_a_reason_in_both_languages(
    folder: Path, make_app: MakeApp
) -> None:
    record = make_app().record(NAME)
    for loader in LOADERS.values():
        for model_format in loader.formats:
            reason = explain_choice(
                type(record)(record.name, record.path, model_format, 1, quantization="4 bit"), loader
            )
            assert reason is not None and "4 bit" in reason["zh"] and reason["zh"] != reason["en"]
    assert explain_choice(record, LOADERS["AutoAWQ"]) is None


def test_the_form_has_every_option_of_every_loader(folder: Path, make_app: MakeApp) -> None:
    app = make_app()
    assert set(app.planner.form_settings(app.record(NAME), {})) == set(OPTIONS)
