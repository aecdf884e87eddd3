"""A server named on the command line: a model for this run, and no flag that applies to servers nobody named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.core.errors import CommandLineError, OptionError
from modules.loaders.load_settings import Setting
from modules.planning.errors import SetByFilesOnly
from modules.planning.load_request import LoadRequest
from modules.planning.recommendation import explain_choice
from tests.planning.test_planner import setting
from tests.support.gguf_files import gguf

MakeApp = Callable[..., App]


def test_an_address_makes_a_model_for_this_run(make_app: MakeApp) -> None:
    app = make_app("--server-url", "http://10.0.0.5:8000/v1", "--server-model", "Qwen/Qwen3-8B", "--n_ctx", "4096")
    record = app.named_model
    assert record is not None
    assert (record.name, record.format) == ("Qwen/Qwen3-8B@10.0.0.5:8000", "server")
    assert app.selectable_models() == [record]
    plan = app.planner.plan(LoadRequest(app.record(record.name)))
    assert plan.loader.name == "Remote"
    assert plan.settings["n_ctx"] == Setting(4096, "flag")
    assert make_app("--server-url", "http://localhost").default_model() == "localhost"


def test_what_is_no_address_is_an_error_at_the_start(make_app: MakeApp) -> None:
    for address in ("localhost:8000", "http://u:p@host", "http://host:99999", ""):
        with pytest.raises((OptionError, CommandLineError)):
            make_app("--server-url", address)


def test_flags_name_one_model_only(make_app: MakeApp, small_models: Path) -> None:
    with pytest.raises(CommandLineError, match="two models"):
        make_app("--server-url", "http://h", "--model", "tiny-7B")


def test_a_key_is_not_for_every_server(make_app: MakeApp, tmp_path: Path) -> None:
    for flag, value in (("--server-key-env", "KEY"), ("--server-ca", "ca.pem"), ("--server-model", "m")):
        with pytest.raises(CommandLineError, match=flag):
            make_app(flag, value)
    (tmp_path / "models" / "a.server.yaml").write_text("url: http://a\n")
    (tmp_path / "models" / "b.server.yaml").write_text("url: http://b\n")
    app = make_app("--model", "a", "--server-key-env", "KEY")
    assert setting(app, "a", "server_key_env") == Setting("KEY", "flag")
    assert setting(app, "b", "server_key_env") == Setting("", "default")


def test_a_file_gives_the_options_and_the_form_cannot_lead_elsewhere(make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "models" / "a.server.yaml").write_text("url: http://a\nkey_env: KEY\n")
    app = make_app()
    assert setting(app, "a", "server_url") == Setting("http://a", "model")
    assert setting(app, "a", "server_model", {"server_model": "m"}) == Setting("m", "form")
    for key in ("server_url", "server_key_env", "server_ca"):
        with pytest.raises(SetByFilesOnly):
            setting(app, "a", key, {key: "http://b"})


def test_a_model_elsewhere_fits_beside_others(make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "models" / "a.server.yaml").write_text("url: http://a\n")
    (tmp_path / "models" / "b.gguf").write_bytes(gguf())
    app = make_app()
    app.memory.available_memory = lambda: 1 << 40
    remote, local = (app.planner.plan(LoadRequest(app.record(name))) for name in ("a", "b"))
    assert app.memory.fits(remote, [local, remote])
    assert app.memory.fits(local, [remote])
    assert app.memory.needed(remote) == 0


def test_the_choice_is_explained_by_the_address(make_app: MakeApp) -> None:
    app = make_app("--server-url", "http://h:8080")
    plan = app.planner.plan(LoadRequest(app.record("h:8080")))
    words = explain_choice(plan.record, plan.loader)
    assert words is not None
    assert words["en"].startswith("http://h:8080: this server generates")


def test_guests_do_not_learn_the_address_from_the_name(make_app: MakeApp) -> None:
    for flags, name in (
        (("--multi-user",), "server"),
        (("--multi-user", "--server-model", "m"), "m"),
        (("--api-key", "a:use:secret"), "server"),
        (("--api-key", "a:owner:secret"), "h:8080"),
    ):
        app = make_app("--server-url", "http://h:8080", *flags)
        assert app.named_model is not None and app.named_model.name == name
