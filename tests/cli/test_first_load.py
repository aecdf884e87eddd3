"""The model of the command line: whether the preparation loads it, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from modules.cli import first_load


def test_only_a_model_whose_loader_is_missing_waits_for_the_preparation(
    small_models: Path, make_app: Callable[..., App]
) -> None:
    assert not first_load._needs_preparation(make_app())
    assert not first_load._needs_preparation(make_app("--model", "cut.gguf")), "it cannot be loaded at all"
    assert not first_load._needs_preparation(make_app("--model", "other.gguf")), "its loader is installed"


def test_a_model_that_cannot_be_loaded_is_logged_and_the_program_runs_on(
    small_models: Path, make_app: Callable[..., App], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    app = make_app("--model", "cut.gguf")
    first_load.expect(app)
    assert (app.models.status.state, app.models.status.name) == ("loading", "cut.gguf")
    first_load.start(app)
    assert "cut.gguf: the file is truncated" in caplog.text
    assert app.models.status.state == "empty"
