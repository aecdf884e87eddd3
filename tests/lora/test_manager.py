"""LoRAs of the loaded model: the checks before the engine applies them, and what stays applied after an error."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modules.app import App
from modules.catalog.catalog import Catalog
from modules.catalog.record import ModelRecord
from modules.config import flags
from modules.core.errors import ModelProblem, NoModelLoaded, OptionError, Unsupported, WebUIError
from modules.core.events import Text
from modules.core.lora_errors import LoraMismatch, LoraNotFound, LoraRefused
from modules.core.prompt import Prompt
from modules.core.worker_errors import WorkerDied
from modules.loaders.load_settings import resolve
from modules.loaders.registry import LOADERS, Loader
from modules.lora import manager
from modules.lora.catalog import LoraCatalog
from modules.lora.manager import LoraManager, parse_saved
from modules.planning.load_request import LoadRequest
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import AppliedLora, LoadedModel
from modules.runtime.model_manager import ModelManager
from tests.conftest import ECHO, worker_pids
from tests.support.gguf_files import MODEL, Tensor, gguf
from tests.support.lora_files import LAYER, adapter, peft

TENSORS = (
    Tensor("token_embd.weight", (64, 100)),
    Tensor("blk.0.attn_q.weight", (64, 64)),
    Tensor("blk.0.attn_v.weight", (64, 32)),
)
WIDE = {LAYER + "q_proj.lora_A.weight": (4, 128), LAYER + "q_proj.lora_B.weight": (64, 4)}
SEVERAL_LORAS = dataclasses.replace(ECHO, abilities=frozenset({"lora", "loras"}))
ONE_LORA = dataclasses.replace(ECHO, abilities=frozenset({"lora"}))
NO_LORAS = dataclasses.replace(ECHO, abilities=frozenset())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Make models/m.gguf and loras/: two that fit, one too wide, one truncated, and two that make the engine fail."""
    (tmp_path / "models").mkdir()
    heads = {"llama.attention.head_count": 4, "llama.attention.head_count_kv": 2}
    (tmp_path / "models" / "m.gguf").write_bytes(gguf({**MODEL, **heads}, TENSORS))
    loras = tmp_path / "loras"
    peft(loras / "cat")
    peft(loras / "wide", WIDE)
    weights = peft(loras / "cut") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    adapter(loras / "dog.gguf")
    for name in ("fail", "kill"):
        peft(loras / name)
    return tmp_path


@pytest.fixture
def models() -> Iterator[ModelManager]:
    model_manager = ModelManager()
    yield model_manager
    model_manager.unload()


@pytest.fixture
def loras(root: Path, models: ModelManager) -> LoraManager:
    return LoraManager(LoraCatalog(root / "loras"), models)


def plan(record: ModelRecord, loader: Loader = SEVERAL_LORAS, **weights: object) -> LoadPlan:
    return LoadPlan(record, loader, resolve(loader, model={}, saved={}, flags={}, form={}), weights)


def load(root: Path, models: ModelManager, loader: Loader = SEVERAL_LORAS, **weights: object) -> LoadedModel:
    loras = LoraManager(LoraCatalog(root / "loras"), models)
    return models.begin(loras.resolve(plan(Catalog(root / "models").find("m"), loader, **weights))).result(20)


def applied_names(model: LoadedModel) -> str:
    """Return the names of the LoRAs that the echo engine has applied: its answer to the prompt "adapters"."""
    events = model.generate(Prompt("adapters"), {})
    return "".join(event.text for event in events if isinstance(event, Text)).strip()


def test_several_loras_are_applied_with_their_weights_and_shown_in_the_status(
    root: Path, models: ModelManager, loras: LoraManager
) -> None:
    model = load(root, models)
    before = models.status.version
    applied = loras.apply({"cat": 1, "dog": "0.5"})
    assert applied == (AppliedLora("cat", 1, 10), AppliedLora("dog.gguf", 0.5, 5))
    assert models.status.loras == model.loras == applied
    assert models.status.version > before and models.status.state == "ready"
    assert applied_names(model) == "cat,dog.gguf"


def test_applying_none_restores_the_model(root: Path, models: ModelManager, loras: LoraManager) -> None:
    model = load(root, models)
    loras.apply({"cat": 1})
    assert loras.apply({}) == models.status.loras == ()
    assert applied_names(model) == ""


def test_a_peft_lora_is_converted_for_llama_cpp(root: Path, models: ModelManager, loras: LoraManager) -> None:
    load(root, models)
    loras.apply({"cat": 1})
    assert [path.suffix for path in (root / "loras" / "cat" / ".converted").iterdir()] == [".gguf"]


@pytest.mark.parametrize(
    ("weights", "error"),
    [
        ({"mouse": 1}, LoraNotFound),
        ({"cat": 1, "wide": 1}, LoraMismatch),
        ({"cut": 1}, ModelProblem),
        ({"cat": 2.5}, OptionError),
        ({"cat": "much"}, OptionError),
        ({"cat": float("nan")}, OptionError),
        ({"cat": 1, "fail": 1}, Unsupported),
    ],
)
def test_after_an_error_the_previous_loras_stay_applied(
    weights: dict[str, object], error: type[WebUIError], root: Path, models: ModelManager, loras: LoraManager
) -> None:
    model = load(root, models)
    loras.apply({"dog": 1})
    with pytest.raises(error):
        loras.apply(weights)
    assert [lora.name for lora in models.status.loras] == ["dog.gguf"]
    assert applied_names(model) == "dog.gguf"


def test_an_adapter_that_crashes_the_worker_is_reported_as_such(
    root: Path, models: ModelManager, loras: LoraManager
) -> None:
    load(root, models)
    with pytest.raises(WorkerDied) as died:
        loras.apply({"kill": 1})
    assert "applying LoRAs" in died.value.say("en") and models.status.state == "failed"


def test_applying_without_a_model_is_an_error(loras: LoraManager) -> None:
    with pytest.raises(NoModelLoaded):
        loras.apply({"cat": 1})


def test_a_loader_without_loras_names_loaders_that_support_them(
    root: Path, models: ModelManager, loras: LoraManager
) -> None:
    load(root, models, NO_LORAS)
    with pytest.raises(Unsupported, match="echo cannot use LoRAs; Transformers"):
        loras.apply({"cat": 1})
    assert loras.apply({}) == ()


def test_a_loader_for_one_lora_refuses_two(root: Path, models: ModelManager, loras: LoraManager) -> None:
    load(root, models, ONE_LORA)
    assert len(loras.apply({"cat": 1})) == 1
    with pytest.raises(Unsupported, match="one LoRA at a time"):
        loras.apply({"cat": 1, "dog": 1})


def test_loras_of_the_plan_are_applied_during_the_load(root: Path, models: ModelManager, loras: LoraManager) -> None:
    assert applied_names(load(root, models, cat=0.5)) == "cat"
    assert models.status.loras == (AppliedLora("cat", 0.5, 5),)


def test_a_model_whose_loras_are_missing_is_loaded_without_them_and_says_why(
    root: Path, models: ModelManager, loras: LoraManager
) -> None:
    model = load(root, models, mouse=1)
    assert applied_names(model) == "" and models.status.state == "ready"
    assert isinstance(models.status.lora_problem, LoraNotFound)
    loras.apply({"cat": 1})
    assert models.status.lora_problem is None


def test_a_lora_whose_files_vanish_while_being_read_is_refused_by_name(
    root: Path, models: ModelManager, loras: LoraManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing_file(*_: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setattr(manager, "check_fit", missing_file)
    model = load(root, models, cat=1)
    assert applied_names(model) == "" and isinstance(models.status.lora_problem, LoraRefused)
    with pytest.raises(LoraRefused, match=r"cat.*No such file"):
        loras.apply({"cat": 1})


def test_a_bug_while_applying_loras_ends_the_load_and_the_worker(
    root: Path, models: ModelManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(LoadedModel, "apply_loras", broken)
    with pytest.raises(ZeroDivisionError):
        load(root, models, cat=1)
    assert models.status.state == "failed" and not worker_pids()


def test_loading_with_other_loras_loads_the_model_again(root: Path, models: ModelManager, loras: LoraManager) -> None:
    assert load(root, models, cat=1) is not load(root, models, dog=1)
    assert [lora.name for lora in models.status.loras] == ["dog.gguf"]


@pytest.mark.parametrize(
    ("saved", "expected"),
    [
        (None, {}),
        (["a", "b"], {"a": 1.0, "b": 1.0}),
        ({"a": 0.5, "b": "x"}, {"a": 0.5, "b": "x"}),
        ("a", {"a": 1.0}),
        (7, {}),
        ("", {}),
    ],
)
def test_saved_loras_are_read_in_every_form(saved: object, expected: dict[str, object]) -> None:
    assert parse_saved(saved) == expected


def test_loras_of_the_command_line_outrank_saved_ones(root: Path, make_app_in_root: Callable[..., App]) -> None:
    (root / "models" / "config-user.yaml").write_text("m.gguf:\n  lora: [cat]\n")
    app = make_app_in_root()
    assert app.planner.plan(LoadRequest(app.record("m.gguf"))).loras == {"cat": 1.0}
    app = make_app_in_root("--lora", "dog", "cat:0.5")
    assert app.planner.plan(LoadRequest(app.record("m.gguf"))).loras == {"dog.gguf": 1.0, "cat": 0.5}


def test_a_misspelled_lora_is_reported_at_start(make_app_in_root: Callable[..., App]) -> None:
    with pytest.raises(LoraNotFound, match="cat"):
        make_app_in_root("--lora", "cad")
    with pytest.raises(OptionError):
        make_app_in_root("--lora", "cat:3")


def test_applied_loras_are_saved_with_their_model_only(root: Path, make_app_in_root: Callable[..., App]) -> None:
    app = make_app_in_root()
    record = app.record("m.gguf")
    (root / "models" / "n.gguf").write_bytes((root / "models" / "m.gguf").read_bytes())
    app.loading.load(plan(record))
    app.loras.apply({"cat": 0.5, "dog": 1})
    app.planner.save(LoadRequest(record, "llama.cpp", {}))
    app.planner.save(LoadRequest(app.record("n.gguf"), "llama.cpp", {}))
    assert app.planner.saved_settings(record)["lora"] == {"cat": 0.5, "dog.gguf": 1.0}
    assert "lora" not in app.planner.saved_settings(app.record("n.gguf"))
    app.models.unload()
    app.planner.save(LoadRequest(record, "llama.cpp", {}))
    assert "lora" in app.planner.saved_settings(record), "unloading the model does not remove them"
    app.loading.load(plan(record, mouse=1))
    app.planner.save(LoadRequest(record, "llama.cpp", {}))
    assert "lora" in app.planner.saved_settings(record), "a LoRA that could not be applied does not remove them"


def test_loras_of_the_command_line_are_not_saved(root: Path, make_app_in_root: Callable[..., App]) -> None:
    app = make_app_in_root("--lora", "cat")
    record = app.record("m.gguf")
    app.loading.load(plan(record, **app.planner.plan(LoadRequest(record)).loras))
    app.planner.save(LoadRequest(record, "llama.cpp", {}))
    assert "lora" not in app.planner.saved_settings(record)
    app.loras.apply({"cat": 0.5})
    app.planner.save(LoadRequest(record, "llama.cpp", {}))
    assert app.planner.saved_settings(record)["lora"] == {"cat": 0.5}


@pytest.fixture
def make_app_in_root(root: Path, tmp_path: Path) -> Iterator[Callable[..., App]]:
    """Make an App from command-line arguments, with the models and LoRAs in `root`."""
    (tmp_path / "settings.yaml").touch()
    apps: list[App] = []

    def make(*arguments: str) -> App:
        folders = ("--model-dir", str(root / "models"), "--lora-dir", str(root / "loras"))
        apps.append(App(flags.parse([*folders, "--settings", str(tmp_path / "settings.yaml"), *arguments])))
        return apps[-1]

    yield make
    for app in apps:
        app.downloads.close()
        app.models.unload()


def test_the_files_of_a_lora_for_a_server_are_compared_by_the_server(loras: LoraManager) -> None:
    served, remote = ModelRecord("s", Path("/models/s.server.yaml"), "server", 0), LOADERS["Remote"]
    resolved = loras.resolve(
        LoadPlan(served, remote, resolve(remote, model={}, saved={}, flags={}, form={}), {"wide": 1})
    )
    assert resolved.lora_problem is None
    assert [(one.name, one.path.name) for one in resolved.adapters] == [("wide", "wide")]
