"""Pure half: load options to the backend's arguments, by the standard library alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modules.options.option import Value


def arguments(path: Path, options: Mapping[str, Value]) -> dict[str, dict[str, Value]]:
    """Return the arguments of every call that loading makes, by the name of the function called."""
    times = int(options.get("repeat_times", 1))
    return {"open_parrot": {"path": str(path), "context_length": int(options["n_ctx"]) or 2048, "times": times}}
