"""From a wish to a load: which model, which loader, which value of which option, and why."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.core.errors import (
    IncompleteModel,
    ModelNotFound,
    NoModelLoaded,
    OptionError,
    SettingsError,
    UnknownLoader,
    UnknownOption,
    Unsupported,
    WorkerDied,
)
from modules.core.events import Text
from modules.core.prompt import Prompt
from modules.loaders.generation_settings import settle
from modules.loaders.load_settings import Setting
from modules.loaders.registry import LOADERS
from modules.planning.load_request import LoadRequest
from tests.conftest import LLAMA
from tests.support.gguf_files import MODEL, gguf

MakeApp = Callable[..., App]


@pytest.fixture
def folder(tmp_path: Path, make_app: MakeApp) -> Path:
    """models/ of `make_app`, with two small models and a damaged one in it."""
    folder = tmp_path / "models"
    (folder / "tiny-7B.gguf").write_bytes(gguf())
    (folder / "other.gguf").write_bytes(gguf({**MODEL, "llama.context_length": 8192}))
    (folder / "cut.gguf").write_bytes(gguf()[:-100])
    return folder


def setting(app: App, name: str, key: str, form: dict[str, object] | None = None) -> Setting:
    return app.planner.plan(LoadRequest(app.catalog.find(name), form=form or {})).settings[key]


def checkpoint(folder: Path) -> None:
    """A folder of weights, of the kind that Transformers takes."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"], "model_type": "llama"}))
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))


def test_a_plan_has_every_option_of_its_loader(folder: Path, make_app: MakeApp) -> None:
    app = make_app()
    plan = app.planner.plan(LoadRequest(app.catalog.find("tiny-7B")))
    assert plan.loader is LLAMA
    assert set(plan.settings) == set(LLAMA.options)


def test_each_source_stands_above_the_one_before(folder: Path, make_app: MakeApp) -> None:
    assert setting(make_app(), "tiny-7B", "n_batch") == Setting(512, "default")
    assert setting(make_app(), "tiny-7B", "n_ctx") == Setting(4096, "model")
    typed = make_app("--n_ctx=1000", "--n_batch=64")
    assert setting(typed, "tiny-7B", "n_ctx") == Setting(1000, "flag")
    assert setting(typed, "tiny-7B", "n_batch") == Setting(64, "flag")
    assert setting(typed, "tiny-7B", "n_ctx", {"n_ctx": "2000"}) == Setting(2000, "form")
    assert setting(typed, "tiny-7B", "n_batch", {"n_ctx": "2000"}) == Setting(64, "flag")


def test_what_a_model_gets_does_not_depend_on_which_was_planned_before(folder: Path, make_app: MakeApp) -> None:
    app = make_app()
    for _ in range(2):
        assert setting(app, "tiny-7B", "n_ctx").value == 4096
        assert setting(app, "other", "n_ctx").value == 8192


def test_flags_apply_to_the_model_they_came_with(folder: Path, make_app: MakeApp) -> None:
    app = make_app("--model", "tiny-7B", "--n_ctx=1000")
    assert setting(app, "tiny-7B", "n_ctx") == Setting(1000, "flag")
    assert setting(app, "other", "n_ctx") == Setting(8192, "model")


def test_flags_without_a_model_apply_to_all(folder: Path, make_app: MakeApp) -> None:
    app = make_app("--n_ctx=1000")
    assert {setting(app, name, "n_ctx") for name in ("tiny-7B", "other")} == {Setting(1000, "flag")}


def test_flags_still_apply_after_the_file_was_replaced(folder: Path, make_app: MakeApp) -> None:
    app = make_app("--model", "tiny-7B", "--n_ctx=1000")
    (folder / "tiny-7B.gguf").write_bytes(gguf({**MODEL, "general.name": "A newer one"}))
    assert setting(app, "tiny-7B", "n_ctx") == Setting(1000, "flag")


def test_flags_of_other_loaders_are_passed_over(folder: Path, make_app: MakeApp) -> None:
    app = make_app("--load-in-4bit")
    assert "load_in_4bit" not in app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"))).settings


@pytest.mark.parametrize("name", ["tiny-7B", "tiny-7B.gguf"])
def test_a_model_is_named_with_or_without_its_ending(folder: Path, make_app: MakeApp, name: str) -> None:
    named = make_app("--model", name).named_model
    assert named is not None
    assert named.name == "tiny-7B.gguf"


def test_a_model_may_be_named_by_its_path(folder: Path, make_app: MakeApp, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.gguf"
    elsewhere.write_bytes(gguf())
    app = make_app("--model", str(elsewhere), "--n_ctx=1000")
    assert app.named_model is not None
    assert app.named_model.path == elsewhere
    assert app.planner.plan(LoadRequest(app.named_model)).settings["n_ctx"] == Setting(1000, "flag")
    assert app.record(str(elsewhere)) == app.named_model


def test_a_model_from_elsewhere_does_not_hide_one_of_the_same_name(
    folder: Path, make_app: MakeApp, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    twin = other / next(folder.glob("*.gguf")).name
    twin.write_bytes(gguf())
    app = make_app("--model", str(twin))
    assert app.record(twin.name).path == folder / twin.name
    assert app.record(str(twin)).path == twin


def test_the_page_cannot_name_a_path(folder: Path, make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "elsewhere.gguf").write_bytes(gguf())
    for name in (str(tmp_path / "elsewhere.gguf"), "../elsewhere.gguf"):
        with pytest.raises(ModelNotFound):
            make_app().record(name)


def test_unknown_names_are_answered_with_the_nearest(folder: Path, make_app: MakeApp) -> None:
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


def test_a_value_in_the_form_that_is_not_acceptable_is_refused(folder: Path, make_app: MakeApp) -> None:
    with pytest.raises(OptionError):
        setting(make_app(), "tiny-7B", "n_ctx", {"n_ctx": "many"})


def test_the_loader_is_the_best_that_runs_here_unless_one_is_named(folder: Path, make_app: MakeApp) -> None:
    app = make_app()
    tiny = app.catalog.find("tiny-7B")
    assert app.planner.plan(LoadRequest(tiny)).loader is LLAMA
    assert app.planner.plan(LoadRequest(tiny, "llamacpp-hf")).loader is LOADERS["llamacpp_HF"]


def test_the_loader_typed_goes_with_the_model_typed(folder: Path, make_app: MakeApp) -> None:
    app = make_app("--model", "tiny-7B", "--loader", "llamacpp_HF")
    assert app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"))).loader is LOADERS["llamacpp_HF"]
    assert app.planner.plan(LoadRequest(app.catalog.find("other"))).loader is LLAMA
    assert (
        make_app("--loader", "llamacpp_HF").planner.plan(LoadRequest(app.catalog.find("other"))).loader
        is LOADERS["llamacpp_HF"]
    )


def test_a_loader_that_does_not_take_the_format_is_refused_with_those_that_do(folder: Path, make_app: MakeApp) -> None:
    app = make_app()
    with pytest.raises(Unsupported, match=r"Transformers cannot load gguf .* use llama\.cpp"):
        app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"), "Transformers"))


def test_a_loader_that_takes_the_format_but_not_its_bits_is_not_taken(folder: Path, make_app: MakeApp) -> None:
    app = make_app()
    eight = dataclasses.replace(app.catalog.find("tiny-7B"), format="gptq", defaults={"wbits": 8})
    assert app.planner.best_loader(eight, {"loader": "ExLlamav2"}).name in {"AutoGPTQ", "Transformers"}
    with pytest.raises(Unsupported, match="ExLlamav2 cannot load 8-bit gptq models"):
        app.planner.plan(LoadRequest(eight, "ExLlamav2"))


def test_a_damaged_model_is_refused_before_anything_is_done(folder: Path, make_app: MakeApp) -> None:
    app = make_app()
    damaged = app.catalog.find("cut")
    assert damaged.problem is not None
    with pytest.raises(IncompleteModel) as refused:
        app.planner.plan(LoadRequest(damaged))
    assert refused.value.file == "cut.gguf"
    with pytest.raises(IncompleteModel):
        app.planner.best_loader(damaged, {})


def test_settings_are_read_from_the_file_named(make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("theme: dark\ntop_k: 7\n")
    app = make_app("--settings", str(tmp_path / "mine.yaml"))
    assert (app.settings.current.theme, app.settings.current.generation) == ("dark", {"top_k": 7})


def test_settings_that_were_named_but_are_not_there_are_an_error(make_app: MakeApp, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="file not found"):
        make_app("--settings", str(tmp_path / "nowhere.yaml"))


def test_a_folder_of_models_need_not_exist(make_app: MakeApp, tmp_path: Path) -> None:
    assert make_app("--model-dir", str(tmp_path / "nowhere")).catalog.models() == []


# -- explain ----------------------------------------------------------------------------------------------------------


def test_explaining_tells_every_value_its_source_and_the_exact_calls(folder: Path, make_app: MakeApp) -> None:
    app = make_app("--model", "tiny-7B", "--n_ctx=1000", "--cache_8bit", "--flash-attn=false", "--no_mul_mat_q")
    assert app.named_model is not None
    told = json.loads(
        json.dumps(app.loading.explain(app.planner.plan(LoadRequest(app.named_model, form={"threads": 3}))))
    )
    assert (told["model"], told["loader"]) == ("tiny-7B.gguf", "llama.cpp")
    assert set(told["options"]) == set(LLAMA.options)
    assert told["options"]["n_ctx"] == {"value": 1000, "source": "flag"}
    assert told["options"]["threads"] == {"value": 3, "source": "form"}
    assert told["options"]["n_batch"] == {"value": 512, "source": "default"}
    assert told["calls"]["llama_model_load_from_file"]["path_model"] == str(folder / "tiny-7B.gguf")
    context = told["calls"]["llama_init_from_model"]
    assert (context["n_ctx"], context["n_threads"], context["flash_attn_type"]) == (1000, 3, 1)
    assert {"flash_attn", "no_mul_mat_q"} <= {note["option"] for note in told["notes"]}
    assert all(set(note["text"]) == {"en", "zh"} for note in told["notes"])


def test_explaining_a_loader_that_is_not_there_says_why_and_the_values_all_the_same(
    folder: Path, make_app: MakeApp
) -> None:
    app = make_app()
    checkpoint(folder / "weights")
    told = app.loading.explain(app.planner.plan(LoadRequest(app.catalog.find("weights"), "Transformers")))
    assert set(told["options"]) == set(LOADERS["Transformers"].options)
    if "unavailable" in told:
        assert all("Transformers" in told["unavailable"][language] for language in ("en", "zh"))
    else:
        assert told["calls"]


def test_explaining_loads_nothing(folder: Path, make_app: MakeApp) -> None:
    app = make_app()
    app.loading.explain(app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"))))
    assert app.models.status.state == "empty"


# -- from end to end --------------------------------------------------------------------------------------------------


def test_a_real_model_is_loaded_asked_killed_loaded_again_and_let_go(make_app: MakeApp, models_folder: Path) -> None:
    app = make_app("--model-dir", str(models_folder), "--n_ctx=512", "--threads=1", "--threads-batch=1")
    (record,) = app.catalog.models()
    for _ in range(2):
        model = app.loading.load(app.planner.plan(LoadRequest(record)))
        assert app.models.status.context_length == 512
        prompt, params = "The capital of France is", settle({"temperature": 0, "max_new_tokens": 8})
        events = model.generate(Prompt(prompt), params)
        assert "Paris" in "".join(event.text for event in events if isinstance(event, Text))
        os.kill(model._worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerDied):
            list(model.generate(Prompt(prompt), params))
    model = app.loading.load(app.planner.plan(LoadRequest(record)))
    assert app.models.unload() > 50 << 20
    with pytest.raises(NoModelLoaded):
        _ = app.models.current
