"""An application whose llama.cpp is the test engine, with small GGUF files for models."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest

from modules.app import App
from modules.loaders import registry
from modules.runtime.load_plan import LoadPlan
from tests.conftest import ECHO
from tests.support.gguf_files import gguf


def use_echo(monkeypatch: pytest.MonkeyPatch, folder: Path, *names: str) -> None:
    """Let the test engine load GGUF files, and make one of each name in `folder`."""
    echo = dataclasses.replace(ECHO, name="llama.cpp")
    monkeypatch.setitem(cast("dict[str, registry.Loader]", registry.LOADERS), echo.name, echo)
    for name in names:
        (folder / name).write_bytes(gguf())


def limit_models(app: App, count: int) -> None:
    """Let so many models fit into memory at once."""

    def fits(plan: LoadPlan, kept: Sequence[LoadPlan], evicted: Sequence[LoadPlan] = ()) -> bool:
        return len(kept) < count

    app.memory.fits = fits  # type: ignore[method-assign]
