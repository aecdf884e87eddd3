"""Consent to code that comes with a model: by flag, by page and by API."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.cli import first_load
from modules.core.errors import CodeChanged, CommandLineError, Unsupported
from modules.core.worker_errors import LoadFailed
from modules.formats.remote_code import hash_python_files
from modules.planning.load_request import LoadRequest
from modules.ui.gradio_import import gradio
from tests.support.own_code import OWN_CODE, own_model
from tests.support.page_parts import model_tab
from tests.support.serving import server_of

gr = gradio()
MakeApp = Callable[..., App]
FLAG = "--trust-remote-code"


@pytest.fixture
def folder(tmp_path: Path, tiny_folder: Path, make_app: MakeApp) -> Path:
    """Make "own", the only model in the models folder, and return its folder."""
    return own_model(tmp_path / "models" / "own", tiny_folder)


def make_code_harmful(folder: Path) -> Path:
    """Change the model's code so that it creates a file when it runs; return its path."""
    evidence = folder / "it ran"
    (folder / "own.py").write_text(f"open({str(evidence)!r}, 'w').close()\n{OWN_CODE}")
    return evidence


def load(app: App) -> None:
    app.loading.load(app.planner.plan(LoadRequest(app.record("own"))))


def test_changed_code_does_not_run_without_consent(folder: Path, make_app: MakeApp) -> None:
    app = make_app(FLAG)
    load(app)
    evidence = make_code_harmful(folder)
    for running in (app, make_app(FLAG)):
        with pytest.raises(CodeChanged, match=r"own\.py \(changed"):
            load(running)
    assert app.models.current.record.name == "own", "the model loaded before stays loaded"
    assert not evidence.exists()
    app.consent.agree(app.record("own"))
    load(app)
    assert evidence.exists()


def test_consent_is_refused_without_the_flag(folder: Path, make_app: MakeApp) -> None:
    with pytest.raises(LoadFailed, match="Turn on trust-remote-code"):
        load(make_app())
    with pytest.raises(Unsupported, match=FLAG):
        make_app().consent.agree(make_app().record("own"))
    assert not (folder.parent / ".trusted.yaml").exists()


def test_consent_is_refused_if_the_code_changed_after_it_was_shown(folder: Path, make_app: MakeApp) -> None:
    app = make_app(FLAG)
    shown = hash_python_files(folder)
    make_code_harmful(folder)
    with pytest.raises(CodeChanged):
        app.consent.agree(app.record("own"), shown)
    assert not (folder.parent / ".trusted.yaml").exists()


def test_trust_changed_code_consents_for_the_model_of_the_model_flag(
    folder: Path, make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    make_app(FLAG).consent.agree(make_app(FLAG).record("own"))
    evidence = make_code_harmful(folder)
    first_load.start(make_app(FLAG, "--model", "own"))
    assert "--trust-changed-code" in caplog.text or "“模型”页" in caplog.text
    assert not evidence.exists()
    first_load.start(make_app(FLAG, "--model", "own", "--trust-changed-code"))
    assert evidence.exists()
    with pytest.raises(CommandLineError, match="--model"):
        make_app(FLAG, "--trust-changed-code")


def test_the_api_refuses_to_load_changed_code(folder: Path, make_app: MakeApp) -> None:
    app = make_app(FLAG, "--api")
    app.consent.agree(app.record("own"))
    evidence = make_code_harmful(folder)
    with server_of(app) as server:
        error = server.refusal("/internal/model/load", {"model_name": "own"})
    assert (error["status"], error["code"]) == (409, "code_changed")
    assert "own.py (changed" in error["message"]
    assert not evidence.exists()


def test_code_of_another_repository_is_neither_downloaded_nor_run(
    tmp_path: Path, tiny_folder: Path, make_app: MakeApp
) -> None:
    folder = own_model(tmp_path / "models" / "own", tiny_folder, repository="someone/elsewhere--")
    evidence = make_code_harmful(folder)
    with pytest.raises(LoadFailed) as refused:
        load(make_app(FLAG))
    assert "another repository (someone/elsewhere)" in refused.value.cause["en"], refused.value.words
    assert not evidence.exists()


@pytest.mark.parametrize(
    "consent",
    [
        None,
        {},
        [],
        {"model": 5},
        {"model": "no such model", "code": {}},
        {"model": "own"},
        {"model": "own", "code": "all"},
    ],
)
def test_the_page_consents_only_to_code_it_has_shown(folder: Path, make_app: MakeApp, consent: object) -> None:
    tab = model_tab(make_app(FLAG))

    async def first_update() -> dict[object, object]:
        return await anext(tab.trust_code({tab.code.asked: consent}))

    assert 'role="alert"' in str(asyncio.run(first_update())[tab.status])
    assert not (folder.parent / ".trusted.yaml").exists()


def test_guests_cannot_consent(folder: Path, make_app: MakeApp) -> None:
    tab = model_tab(make_app(FLAG, "--multi-user"))

    async def first_update() -> dict[object, object]:
        return await anext(tab.trust_code({tab.code.asked: {"model": "own", "code": hash_python_files(folder)}}))

    assert "only its owner" in str(asyncio.run(first_update())[tab.status])
    assert not (folder.parent / ".trusted.yaml").exists()
