"""Loader, options and LoRAs of the command line, and the models that they apply to."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from modules.app import App
from modules.catalog.record import ModelRecord
from modules.config import flags
from modules.loaders.load_settings import Setting
from modules.loaders.registry import LOADERS
from modules.planning.command_line import CommandLine
from modules.planning.load_request import LoadRequest
from tests.conftest import LLAMA
from tests.planning.test_planner import setting
from tests.support.gguf_files import MODEL, gguf

MakeApp = Callable[..., App]
TINY = ModelRecord("tiny.gguf", Path("models/tiny.gguf"), "gguf", 1)
OTHER = ModelRecord("other.gguf", Path("models/other.gguf"), "gguf", 1)
FLAGS = flags.parse(["--loader", "llamacpp_HF", "--n_ctx=1000"])
LORAS = {"cat": 0.5}


def test_without_a_model_everything_applies_to_every_model() -> None:
    command_line = CommandLine(FLAGS, loras=LORAS)
    for record in (TINY, OTHER):
        assert command_line.applies_to(record)
        assert command_line.loader_for(record) == "llamacpp_HF"
        assert command_line.options_for(record) == {"n_ctx": 1000}
        assert command_line.loras_for(record) == LORAS


def test_with_a_model_nothing_applies_to_other_models() -> None:
    command_line = CommandLine(FLAGS, TINY, LORAS)
    assert command_line.loader_for(TINY) == "llamacpp_HF"
    assert (command_line.options_for(TINY), command_line.loras_for(TINY)) == ({"n_ctx": 1000}, LORAS)
    assert not command_line.applies_to(OTHER)
    assert command_line.loader_for(OTHER) == ""
    assert command_line.options_for(OTHER) == command_line.loras_for(OTHER) == {}


def test_an_empty_command_line_prescribes_nothing() -> None:
    command_line = CommandLine(flags.parse([]))
    assert command_line.applies_to(TINY)
    assert command_line.loader_for(TINY) == ""
    assert command_line.options_for(TINY) == command_line.loras_for(TINY) == {}


def test_a_model_is_recognized_by_its_name() -> None:
    command_line = CommandLine(FLAGS, TINY)
    assert command_line.applies_to(dataclasses.replace(TINY, size=2))
    assert not command_line.applies_to(dataclasses.replace(TINY, name="renamed.gguf"))


# -- in load plans -----------------------------------------------------------------------------------------------------


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


def test_a_loader_flag_applies_to_the_model_that_the_command_line_names(small_models: Path, make_app: MakeApp) -> None:
    app = make_app("--model", "tiny-7B", "--loader", "llamacpp_HF")
    assert app.planner.plan(LoadRequest(app.catalog.find("tiny-7B"))).loader is LOADERS["llamacpp_HF"]
    assert app.planner.plan(LoadRequest(app.catalog.find("other"))).loader is LLAMA
    assert (
        make_app("--loader", "llamacpp_HF").planner.plan(LoadRequest(app.catalog.find("other"))).loader
        is LOADERS["llamacpp_HF"]
    )
