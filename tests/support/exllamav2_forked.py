"""Run exllamav2 on the stand-in for its extension in a fork of a process that has imported torch.

As with a process of its own, the stand-in's changes of torch are gone afterwards; but it starts seconds faster.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from tests.support.exl2_folder import with_standin
from tests.support.forked import forked


def printed_by(script: str, *words: str, flash: bool = False, cards: int = 1) -> str:
    """Run `main` of the module `script` with these command-line arguments; return its output."""
    environment = with_standin(flash=flash) | {"EXLLAMAV2_STANDIN_CARDS": str(cards)}
    return forked(_run, script, words, environment)


def probed(folder: Path, work: Path, *, flash: bool = False, **asked: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run tests/support/exllamav2_probe.py with a request as described there; return the logits and its output."""
    what = work / "what.json"
    what.write_text(json.dumps({"folder": str(folder), "out": str(work / "logits.npz"), **asked}, default=str))
    printed = printed_by("tests.support.exllamav2_probe", str(what), flash=flash, cards=asked.get("cards", 1))
    return dict(np.load(work / "logits.npz")), json.loads(printed.splitlines()[-1])


def pieces(work: Path) -> dict[str, Any]:
    """Run tests/support/exllamav2_pieces.py and return the arrays it saves."""
    printed_by("tests.support.exllamav2_pieces", str(work / "pieces.npz"))
    return dict(np.load(work / "pieces.npz"))


def _run(script: str, words: tuple[str, ...], environment: dict[str, str]) -> str:
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    sys.argv = [script, *words]
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        importlib.import_module(script).main()
    return printed.getvalue()
