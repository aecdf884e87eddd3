"""An error of a worker arrives only if the main process has imported its class."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

from modules.core.paths import ROOT

_KNOWN = """
import json, modules.lora.manager, modules.runtime.model_manager, modules.training.runs
from modules.core import errors
print(json.dumps(list(errors._family(errors.WebUIError))))
"""


def test_the_main_process_knows_the_errors_that_workers_raise() -> None:
    run = subprocess.run([sys.executable, "-c", _KNOWN], cwd=ROOT, check=True, capture_output=True)
    known: set[str] = set(json.loads(run.stdout))
    files = [*ROOT.glob("modules/core/*_errors.py"), *ROOT.glob("modules/engines/**/*errors.py")]
    classes = [
        node.name
        for file in files
        for node in ast.parse(file.read_text("utf-8")).body
        if isinstance(node, ast.ClassDef)
    ]
    assert len(classes) > 20
    assert set(classes) <= known
