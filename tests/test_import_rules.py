"""Import rules: the contracts of import-linter in pyproject.toml, and the modules that are imported at run time."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from modules.core.paths import ROOT

HEAVY = ("torch", "transformers", "llama_cpp", "numpy", "gradio", "fastapi")


def test_imports_keep_the_contracts_of_import_linter() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("module", ["server", "modules.app", "modules.chat.prompt", "modules.worker"])
def test_heavy_packages_are_not_imported_before_they_are_needed(module: str) -> None:
    program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
    run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout == "[]\n", run.stderr


def test_modules_shared_with_workers_import_only_the_standard_library() -> None:
    """In a worker, the packages of an overlay take precedence, and their versions differ from the main environment."""
    program = (
        "import sys; sys.path = [path for path in sys.path if 'site-packages' not in path];"
        "import modules.worker, modules.core.errors, modules.options.option, modules.core.events;"
        "import modules.system.cpu_memory; print('imported')"
    )
    command = [sys.executable, "-S", "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout == "imported\n", run.stderr
