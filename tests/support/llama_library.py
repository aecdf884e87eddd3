"""Query the installed llama.cpp in a child process, so that this process never imports it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from modules.core.paths import ROOT
from modules.engines.llamacpp.arguments import Build

_BUILD = """
import dataclasses, json
from modules.engines.llamacpp.library import installed_build
print(json.dumps(dataclasses.asdict(installed_build())))
"""


def run_python(program: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    """Run a Python program in a child process and wait for its end."""
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, input=stdin, capture_output=True, text=True, timeout=120)


def installed_build() -> Build:
    """Return what the installed library was compiled with."""
    return Build(**json.loads(run_checked(_BUILD)))


def reference_answers(request: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the answers of `llama_cpp.Llama`, one per prompt; `request` is that of `llama_reference.main`."""
    answers: list[dict[str, Any]] = json.loads(
        run_checked("from tests.support import llama_reference; llama_reference.main()", json.dumps(request))
    )
    return answers


def run_checked(program: str, stdin: str = "") -> str:
    """Return what a Python program in a child process prints. Fail if it fails."""
    child = run_python(program, stdin)
    assert child.returncode == 0, child.stderr
    return child.stdout
