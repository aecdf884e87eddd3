"""Plans: which loader, which value of each option and from which source; and the settings saved for a model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.config.settings import read
from modules.config.yaml_file import YamlFile
from modules.core.errors import (
    IncompleteModel,
    OptionError,
    OwnerOnly,
    SettingsError,
    Unsupported,
)
from modules.loaders.load_settings import Setting
from modules.loaders.registry import LOADERS
from modules.options.load import OPTIONS
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


def written(folder: Path) -> dict[str, object]:
    return dict(YamlFile(folder / "config-user.yaml").read())


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_has_every_option_of_its_loader(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    plan = app.planner.plan(LoadRequest(app.catalog.find("tiny-7B")))
    assert plan.loader is LLAMA
    assert set(plan.settings) == set(LLAMA.options)


def test_each_source_outranks_the_one_before(small_models: Path, make_app: MakeApp) -> None:
    assert setting(make_app(), "tiny-7B", "n_batch") == Setting(512, "default")
    assert setting(make_app(), "tiny-7B", "n_ctx") == Setting(4096, "model")
    typed = make_app("--n_ctx=1000", "--n_batch=64")
    assert setting(typed, "tiny-7B", "n_ctx") == Setting(1000, "flag")
    assert setting(typed, "tiny-7B", "n_batch") == Setting(64, "flag")
    assert setting(typed, "tiny-7B", "n_ctx", {"n_ctx": "2000"}) == Setting(2000, "form")
    assert setting(typed, "tiny-7B", "n_batch", {"n_ctx": "2000"}) == Setting(64, "flag")


def test_a_plan_does_not_depend_on_earlier_plans(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    for _ in range(2):
        assert setting(app, "tiny-7B", "n_ctx").value == 4096
        assert setting(app, "other", "n_ctx").value == 8192


def test_flags_apply_to_the_model_that_the_command_line_names(small_models: Path, make_app: MakeApp) -> None:
    app = make_app("--model", "tiny-7B", "--n_ctx=1000")
    assert setting(app, "tiny-7B", "n_ctx") == Setting(1000, "flag")
    assert setting(app, "other", "n_ctx") == Setting(8192, "model")


def test_flags_without_a_model_apply_to_all_models(small_models: Path, make_app: MakeApp) -> None:
    app = make_app("--n_ctx=1000")
    assert {setting(app, name, "n_ctx") for name in ("tiny-7B", "other")} == {Setting(1000, "flag")}


def test_flags_still_apply_after_the_file_was_replaced(small_models: Path, make_app: MakeApp) -> None:
    app = make_app("--model", "tiny-7B", "--n_ctx=1000")
    (small_models / "tiny-7B.gguf").write_bytes(gguf({**MODEL, "general.name": "A newer one"}))
    assert setting(app, "tiny-7B", "n_ctx") == Setting(1000, "flag")


def test_flags_of_other_loaders_are_ignored(small_models: Path, make_app: MakeApp) -> None:
    app = make_app("--load-in-4bit")
    assert "load_in_4bit" not in app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"))).settings


def test_an_invalid_value_in_the_form_is_refused(small_models: Path, make_app: MakeApp) -> None:
    with pytest.raises(OptionError):
        setting(make_app(), "tiny-7B", "n_ctx", {"n_ctx": "many"})


def test_the_best_running_loader_is_chosen_unless_one_is_named(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    tiny = app.catalog.find("tiny-7B")
    assert app.planner.plan(LoadRequest(tiny)).loader is LLAMA
    assert app.planner.plan(LoadRequest(tiny, "llamacpp-hf")).loader is LOADERS["llamacpp_HF"]


def test_a_loader_flag_applies_to_the_model_that_the_command_line_names(small_models: Path, make_app: MakeApp) -> None:
    app = make_app("--model", "tiny-7B", "--loader", "llamacpp_HF")
    assert app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"))).loader is LOADERS["llamacpp_HF"]
    assert app.planner.plan(LoadRequest(app.catalog.find("other"))).loader is LLAMA
    assert (
        make_app("--loader", "llamacpp_HF").planner.plan(LoadRequest(app.catalog.find("other"))).loader
        is LOADERS["llamacpp_HF"]
    )


def test_a_loader_for_other_formats_is_refused_with_suitable_ones(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    with pytest.raises(Unsupported, match=r"Transformers cannot load gguf .* use llama\.cpp"):
        app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"), "Transformers"))


def test_a_loader_for_other_bit_widths_is_refused(small_models: Path, make_app: MakeApp) -> None:
    app = make_app()
    eight = dataclasses.replace(app.catalog.find("tiny-7B"), format="gptq", defaults={"wbits": 8})
    assert app.planner.best_loader(eight, {"loader": "ExLlamav2"}).name in {"AutoGPTQ", "Transformers"}
    with pytest.raises(Unsupported, match="ExLlamav2 cannot load 8-bit gptq models"):
        app.planner.plan(LoadRequest(eight, "ExLlamav2"))


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
    assert written(folder) == {NAME: {"loader": "llama.cpp", "n_ctx": 2048, "mlock": True}}
    save(make_app(), NAME, n_ctx=4096)  # the model's own
    assert written(folder) == {NAME: {"loader": "llama.cpp", "mlock": True}}


def test_saved_settings_outrank_the_models_files_and_yield_to_flags(folder: Path, make_app: MakeApp) -> None:
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


@pytest.mark.parametrize("saved", ["AutoGPTQ", "a loader that is gone", "5"])
def test_a_saved_loader_that_cannot_load_the_model_is_ignored(folder: Path, make_app: MakeApp, saved: str) -> None:
    (folder / "config-user.yaml").write_text(f"'{NAME}': {{loader: {saved}}}\n")
    assert make_app().planner.plan(LoadRequest(make_app().record(NAME))).loader.name == "llama.cpp"


def test_a_preferred_loader_must_support_the_format(tmp_path: Path) -> None:
    (tmp_path / "s.yaml").write_text("loader_gguf: AutoAWQ\n")
    with pytest.raises(SettingsError, match="loader_gguf"):
        read(tmp_path / "s.yaml")


def test_an_invalid_saved_value_is_reported_and_the_others_are_used(folder: Path, make_app: MakeApp) -> None:
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


def test_an_invalid_file_is_reported_with_its_line_and_backed_up_on_save(folder: Path, make_app: MakeApp) -> None:
    (folder / "config-user.yaml").write_text("a: [1\nb: 2\n")
    app = make_app()
    saved, (problem,) = app.planner.validated_settings(app.record(NAME))
    assert saved == {} and "line 2" in problem.say("en") and "第 2 行" in problem.say("zh")
    aside = save(app, NAME, threads=3)
    assert aside is not None and aside.read_text() == "a: [1\nb: 2\n"
    assert written(folder) == {NAME: {"loader": "llama.cpp", "threads": 3}}


def test_code_of_a_model_runs_only_if_the_command_line_allows_it(folder: Path, make_app: MakeApp) -> None:
    checkpoint(folder / "weights")
    (folder / "config-user.yaml").write_text("weights: {trust_remote_code: true}\n")
    plain, trusting = make_app(), make_app("--trust-remote-code")
    record = plain.record("weights")
    assert plain.planner.plan(LoadRequest(record)).settings["trust_remote_code"].value is False
    with pytest.raises(Unsupported, match="--trust-remote-code"):
        plain.planner.plan(LoadRequest(record, form={"trust_remote_code": True}))
    assert trusting.planner.plan(LoadRequest(record)).settings["trust_remote_code"].value is True


def test_autoload_is_saved_without_touching_the_rest_of_the_file(tmp_path: Path, make_app: MakeApp) -> None:
    (tmp_path / "settings.yaml").write_text("# mine\ntheme: dark  # at night\n")
    make_app().settings.set("autoload_model", True)
    assert make_app().settings.current.autoload_model is True
    assert (tmp_path / "settings.yaml").read_text().startswith("# mine\ntheme: dark  # at night\n")
    make_app().settings.set("autoload_model", False)
    assert make_app().settings.current.autoload_model is False


def test_with_multi_user_only_the_owner_of_the_api_key_loads(folder: Path, make_app: MakeApp) -> None:
    with pytest.raises(OwnerOnly):
        make_app("--multi-user").refuse_guests()
    make_app().refuse_guests()
    body = {"model_name": "no such model"}
    with server_of(make_app("--api", "--multi-user")) as server:
        assert server.refusal("/internal/model/load", body)["status"] == 403
        assert server.refusal("/internal/model/unload", None)["status"] == 403
    with server_of(make_app("--api", "--multi-user", "--api-key", "k")) as server:
        assert server.refusal("/internal/model/load", body, Authorization="Bearer k")["status"] == 404


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
