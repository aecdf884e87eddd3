"""Convert load options to the calls of the backend, with the standard library only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.core.events import Json, Note
from modules.options.option import Value


def arguments(path: Path, options: Mapping[str, Value], environment: None) -> Mapping[str, Json]:
    """Return the arguments of the backend calls that load the model, by function."""
    times = int(options.get("repeat_times", 1))
    return {"open_echo": {"path": str(path), "context_length": int(options["n_ctx"]) or 2048, "times": times}}


def notes(path: Path, options: Mapping[str, Value], environment: None) -> Iterator[Note]:
    """Explain options without effect or with an unexpected effect."""
    if not options["n_ctx"]:
        yield Note("n_ctx", {"en": "Automatic: 2048.", "zh": "自动：2048。"})
