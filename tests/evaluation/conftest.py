"""An application whose llama.cpp is the test engine: the log-probability of a token is its number, negated."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from modules.app import App
from tests.support.echo_models import use_echo


@pytest.fixture
def echo_app(make_app: Callable[..., App], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    """Return an application with the models good.gguf and two that put BOS before texts or load slowly.

    Its texts are "digits" and "short".
    """
    use_echo(monkeypatch, tmp_path / "models", "good.gguf", "bos model.gguf", "brief model.gguf")
    folder = tmp_path / "datasets"
    folder.mkdir()
    (folder / "digits.txt").write_text("1 2 3 4 5 6 " * 20)
    (folder / "short.txt").write_text("1")
    app = make_app("--dataset-dir", str(folder), "--lora-dir", str(tmp_path / "loras"))
    return app
