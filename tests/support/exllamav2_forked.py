"""Run scripts with exllamav2 and the stand-in for its extension in a fork of a process that has imported torch.

The stand-in's patches of torch are gone afterwards, as with a new process, but a fork starts seconds faster.
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


def output_of(script: str, *arguments: str, flash: bool = False, gpus: int = 1) -> str:
    """Run `main` of the module `script` with command-line `arguments`; return its output."""
    environment = with_standin(flash=flash) | {"EXLLAMAV2_STANDIN_GPUS": str(gpus)}
    return forked(_run, script, arguments, environment)


def probe(folder: Path, work: Path, *, flash: bool = False, **request: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run tests/support/exllamav2_probe.py with a request as described there; return the logits and its output."""
    file = work / "request.json"
    file.write_text(json.dumps({"folder": str(folder), "out": str(work / "logits.npz"), **request}, default=str))
    output = output_of("tests.support.exllamav2_probe", str(file), flash=flash, gpus=request.get("gpus", 1))
    return dict(np.load(work / "logits.npz")), json.loads(output.splitlines()[-1])


def function_results(work: Path) -> dict[str, Any]:
    """Run tests/support/exllamav2_functions.py and return the arrays it saves."""
    output_of("tests.support.exllamav2_functions", str(work / "results.npz"))
    return dict(np.load(work / "results.npz"))


def _run(script: str, arguments: tuple[str, ...], environment: dict[str, str]) -> str:
    os.environ.update(environment)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    sys.argv = [script, *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as output:
        importlib.import_module(script).main()
    return output.getvalue()
