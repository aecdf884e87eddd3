"""Load plans: the loader, and every option with its value and source; and the settings saved for a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest

from modules.app import App
from modules.config.settings import read
from modules.config.yaml_file import YamlFile
from modules.core.errors import (
    IncompleteModel,
    OpenToNetwork,
    OptionError,
    OwnerOnly,
    SettingsError,
    Unsupported,
)
from modules.loaders.load_settings import Setting
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
from modules.planning import planner
from modules.planning.errors import SetByFilesOnly
from modules.planning.load_request import LoadRequest
from modules.planning.recommendation import explain_choice
from tests.conftest import LLAMA
from tests.support.gguf_files import MODEL, gguf
from tests.support.serving import server_of

MakeApp = Callable[..., App]
NAME = "a 中文+[1] $x.gguf"


@pytest.fixture
def folder(tmp_path: Path, make_app: MakeApp) -> Path:
    """Fill models/ of `make_app` with two models."""
    folder = tmp_path / "models"
    (folder / NAME).write_bytes(gguf())
    (folder / "other.gguf").write_bytes(gguf({**MODEL, "llama.context_length": 8192}))
    return folder


def setting(app: App, name: str, key: str, form: dict[str, object] | None = None) -> Setting:
    return app.planner.plan(LoadRequest(app.catalog.find(name), form=form or {})).settings[key]


def checkpoint(folder: Path) -> None:
    """Make a folder of weights for Transformers."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def save(app: App, name: str, loader: str = "llama.cpp", **form: object) -> Path | None:
    return app.planner.save(LoadRequest(app.record(name), loader, form))


def saved_file(folder: Path) -> dict[str, object]:
    return dict(YamlFile(folder / "config-user.yaml").read())


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_has_every_option_of_its_loader(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    plan = app.planner.plan(LoadRequest(app.catalog.find("tiny-7B")))
    assert plan.loader is LLAMA
    assert set(plan.settings) == set(LLAMA.options)


def test_form_values_outrank_flags_model_files_and_defaults(small_models: Path, make_app: MakeApp) -> None:
    assert setting(make_app(), "tiny-7B", "n_batch") == Setting(512, "default")
    assert setting(make_app(), "tiny-7B", "n_ctx") == Setting(4096, "model")
    with_flags = make_app("--n_ctx=1000", "--n_batch=64")
    assert setting(with_flags, "tiny-7B", "n_ctx") == Setting(1000, "flag")
    assert setting(with_flags, "tiny-7B", "n_batch") == Setting(64, "flag")
    assert setting(with_flags, "tiny-7B", "n_ctx", {"n_ctx": "2000"}) == Setting(2000, "form")
    assert setting(with_flags, "tiny-7B", "n_batch", {"n_ctx": "2000"}) == Setting(64, "flag")


def test_a_plan_does_not_depend_on_earlier_plans(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    for _ in range(2):
        assert setting(app, "tiny-7B", "n_ctx").value == 4096
        assert setting(app, "other", "n_ctx").value == 8192


def test_flags_of_other_loaders_are_ignored(small_models: Path, make_app: MakeApp) -> None:
    app = make_app("--load-in-4bit")
    assert "load_in_4bit" not in app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"))).settings


def test_an_invalid_value_in_the_form_is_refused(small_models: Path, make_app: MakeApp) -> None:
    with pytest.raises(OptionError):
        setting(make_app(), "tiny-7B", "n_ctx", {"n_ctx": "many"})


def test_the_best_available_loader_is_chosen_unless_one_is_named(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    tiny = app.catalog.find("tiny-7B")
    assert app.planner.plan(LoadRequest(tiny)).loader is LLAMA
    assert app.planner.plan(LoadRequest(tiny, "llamacpp-hf")).loader is LOADERS["llamacpp_HF"]


def test_a_loader_for_other_formats_is_refused_with_suitable_ones(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    with pytest.raises(Unsupported, match=r"Transformers cannot load gguf .* use llama\.cpp"):
        app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"), "Transformers"))


def test_a_loader_for_other_bit_widths_is_refused(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    eight_bits = dataclasses.replace(app.catalog.find("tiny-7B"), format="gptq", defaults={"wbits": 8})
    assert app.planner.best_loader(eight_bits, {"loader": "ExLlamav2"}).name in {"AutoGPTQ", "Transformers"}
    with pytest.raises(Unsupported, match="ExLlamav2 cannot load 8-bit gptq models"):
        app.planner.plan(LoadRequest(eight_bits, "ExLlamav2"))


def test_a_damaged_model_is_refused(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    damaged = app.catalog.find("cut")
    assert damaged.problem is not None
    with pytest.raises(IncompleteModel) as refused:
        app.planner.plan(LoadRequest(damaged))
    assert refused.value.file == "cut.gguf"
    with pytest.raises(IncompleteModel):
        app.planner.best_loader(damaged, {})


# -- saved settings ----------------------------------------------------------------------------------------------------


def test_only_options_that_differ_from_the_defaults_of_the_model_are_saved(folder: Path, make_app: MakeApp) -> None:
    save(make_app(), NAME, n_ctx=2048, threads=0, mlock=True, n_batch=512)
    assert saved_file(folder) == {NAME: {"loader": "llama.cpp", "n_ctx": 2048, "mlock": True}}
    save(make_app(), NAME, n_ctx=4096)  # the default of the model
    assert saved_file(folder) == {NAME: {"loader": "llama.cpp", "mlock": True}}


def test_saved_settings_outrank_the_files_of_the_model_but_not_flags(folder: Path, make_app: MakeApp) -> None:
    save(make_app(), NAME, n_ctx=2048, threads=3)
    for app in (make_app(), make_app("--model", NAME)):
        assert app.planner.plan(LoadRequest(app.record(NAME))).settings["n_ctx"] == Setting(2048, "saved")
    with_flags = make_app("--n_ctx=1000")
    settings = with_flags.planner.plan(LoadRequest(with_flags.record(NAME), form={"threads": 5})).settings
    assert settings["n_ctx"] == Setting(1000, "flag")
    assert settings["threads"] == Setting(5, "form")
    assert make_app().planner.plan(LoadRequest(make_app().record("other.gguf"))).settings["n_ctx"] == Setting(
        8192, "model"
    )


def test_flags_are_not_saved(folder: Path, make_app: MakeApp) -> None:
    save(make_app("--threads", "3", "--cpu", "--n_batch", "64"), NAME, n_batch=256)
    assert saved_file(folder) == {NAME: {"loader": "llama.cpp", "n_batch": 256}}


def test_the_api_loads_with_saved_settings(smollm2: Path, tmp_path: Path, make_app: MakeApp) -> None:
    app = make_app("--api")
    (tmp_path / "models" / smollm2.name).symlink_to(smollm2)
    save(app, smollm2.name, n_ctx=768)
    with server_of(app) as server:
        answer = server.post("/internal/model/load", {"model_name": smollm2.name, "args": {"threads": 1}}).json()
    assert answer["context_length"] == 768
    assert (answer["options"]["n_ctx"], answer["options"]["threads"]) == (768, 1)


def test_a_saved_loader_outranks_the_preferred_one(folder: Path, make_app: MakeApp, tmp_path: Path) -> None:
    record = make_app().record(NAME)
    assert make_app().planner.plan(LoadRequest(record)).loader.name == "llama.cpp"
    (tmp_path / "settings.yaml").write_text("loader_gguf: llamacpp_HF\n")
    assert make_app().planner.plan(LoadRequest(record)).loader.name == "llamacpp_HF"
    save(make_app(), NAME, "llama.cpp")
    assert make_app().planner.plan(LoadRequest(record)).loader.name == "llama.cpp"
    assert make_app("--loader", "llamacpp_HF").planner.plan(LoadRequest(record)).loader.name == "llamacpp_HF"


@pytest.mark.parametrize("saved", ["AutoGPTQ", "a removed loader", "5"])
def test_a_saved_loader_that_cannot_load_the_model_is_ignored(folder: Path, make_app: MakeApp, saved: str) -> None:
    (folder / "config-user.yaml").write_text(f"'{NAME}': {{loader: {saved}}}\n")
    assert make_app().planner.plan(LoadRequest(make_app().record(NAME))).loader.name == "llama.cpp"


def test_a_preferred_loader_must_support_the_format(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("loader_gguf: AutoAWQ\n")
    with pytest.raises(SettingsError, match="loader_gguf"):
        read(tmp_path / "s.yaml")


def test_an_invalid_saved_value_is_reported_and_the_valid_ones_are_used(folder: Path, make_app: MakeApp) -> None:
    (folder / "config-user.yaml").write_text(f"'{NAME}': {{n_ctx: many, threads: 3, mlock: perhaps}}\n")
    app = make_app()
    record = app.record(NAME)
    saved, problems = app.planner.validated_settings(record)
    assert saved == {"threads": 3}
    assert {problem.option for problem in problems if isinstance(problem, OptionError)} == {"n_ctx", "mlock"}
    # Callers without a form, such as the API, get an error; the form shows the problem for the user to correct.
    with pytest.raises(OptionError):
        app.planner.plan(LoadRequest(record))
    save(app, NAME, n_ctx=512)
    assert app.planner.plan(LoadRequest(record)).settings["n_ctx"] == Setting(512, "saved")


def test_an_invalid_file_is_reported_with_its_line_and_backed_up_on_save(folder: Path, make_app: MakeApp) -> None:
    (folder / "config-user.yaml").write_text("a: [1\nb: 2\n")
    app = make_app()
    saved, (problem,) = app.planner.validated_settings(app.record(NAME))
    assert saved == {} and "line 2" in problem.say("en") and "第 2 行" in problem.say("zh")
    backup = save(app, NAME, threads=3)
    assert backup is not None and backup.read_text() == "a: [1\nb: 2\n"
    assert saved_file(folder) == {NAME: {"loader": "llama.cpp", "threads": 3}}


def test_remote_code_runs_only_if_the_command_line_allows_it(folder: Path, make_app: MakeApp) -> None:
    checkpoint(folder / "weights")
    (folder / "config-user.yaml").write_text("weights: {trust_remote_code: true}\n")
    plain, trusting = make_app(), make_app("--trust-remote-code")
    record = plain.record("weights")
    assert plain.planner.plan(LoadRequest(record)).settings["trust_remote_code"].value is False
    with pytest.raises(Unsupported, match="--trust-remote-code"):
        plain.planner.plan(LoadRequest(record, form={"trust_remote_code": True}))
    assert trusting.planner.plan(LoadRequest(record)).settings["trust_remote_code"].value is True


def test_saving_autoload_keeps_the_comments_and_other_settings(tmp_path: Path, make_app: MakeApp) -> None:
    (tmp_path / "settings.yaml").write_text("# mine\ntheme: dark  # at night\n")
    make_app().settings.set("autoload_model", True)
    assert make_app().settings.current.autoload_model is True
    assert (tmp_path / "settings.yaml").read_text().startswith("# mine\ntheme: dark  # at night\n")
    make_app().settings.set("autoload_model", False)
    assert make_app().settings.current.autoload_model is False


def test_with_multi_user_only_clients_with_the_api_key_can_load(folder: Path, make_app: MakeApp) -> None:
    with pytest.raises(OwnerOnly):
        make_app("--multi-user").refuse_guests()
    make_app().refuse_guests()
    body = {"model_name": "no such model"}
    with server_of(make_app("--api", "--multi-user")) as server:
        assert server.refusal("/internal/model/load", body)["status"] == 403
        assert server.refusal("/internal/model/unload", None)["status"] == 403
    with server_of(make_app("--api", "--multi-user", "--api-key", "k")) as server:
        assert server.refusal("/internal/model/load", body, Authorization="Bearer k")["status"] == 404


def test_not_every_form_may_set_every_option(folder: Path, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    def allow(set_by: Literal["owner", "files"]) -> None:
        changed = dataclasses.replace(OPTIONS["n_batch"], set_by=set_by)
        monkeypatch.setattr(planner, "OPTIONS", {**OPTIONS, "n_batch": changed})

    allow("files")
    with pytest.raises(SetByFilesOnly, match="--n_batch"):
        setting(make_app(), NAME, "n_batch", {"n_batch": 64})
    assert setting(make_app("--n_batch", "64"), NAME, "n_batch").source == "flag"
    allow("owner")
    assert setting(make_app("--listen", "--api-key", "k"), NAME, "n_batch", {"n_batch": 64}).value == 64
    for flags in (("--listen",), ("--public-host", "llm.example.com")):  # others reach it directly, or by a proxy
        with pytest.raises(OpenToNetwork):
            setting(make_app(*flags), NAME, "n_batch", {"n_batch": 64})
    with pytest.raises(OwnerOnly):
        setting(make_app("--multi-user"), NAME, "n_batch", {"n_batch": 64})


def test_every_format_of_every_loader_has_a_reason_in_both_languages(folder: Path, make_app: MakeApp) -> None:
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


def test_the_form_of_a_damaged_model_has_every_option_too(small_models: Path, make_app: MakeApp) -> None:
    app = make_app("--n_ctx", "1024")
    settings = app.planner.form_settings(app.catalog.find("cut"), {})
    assert set(settings) == set(OPTIONS) and settings["n_ctx"].value == 1024


def test_the_plan_of_a_model_with_a_draft_model_knows_its_header(make_app: MakeApp, folder: Path) -> None:
    app = make_app()
    record = app.catalog.find(NAME)

    def drafts(name: str) -> list[str]:
        header = app.planner.plan(LoadRequest(record, form={"model_draft": name, "n_ctx": 512})).record.header
        return list(header.drafts) if header else []

    (folder / "damaged.gguf").write_bytes(b"GGUF")
    assert [drafts(name) for name in ("other.gguf", "damaged.gguf", "absent.gguf", "")] == [["other.gguf"], [], [], []]
