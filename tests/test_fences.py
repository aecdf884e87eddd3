"""Imports. The rules are contracts of import-linter, in pyproject.toml; here they are checked, and what runs is too."""

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


def test_heavy_packages_are_not_imported_before_they_are_needed(subtests: pytest.Subtests) -> None:
    for module in ("server", "modules.app", "modules.chat.prompt", "modules.worker"):
        program = f"import sys, {module}; print([name for name in {HEAVY} if name in sys.modules])"
        run = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, timeout=60)
        with subtests.test(module=module):
            assert run.stdout == "[]\n", run.stderr


def test_what_both_processes_import_needs_the_standard_library_alone() -> None:
    """Workers import it beside the packages of an overlay, which are of other versions."""
    program = (
        "import sys; sys.path = [path for path in sys.path if 'site-packages' not in path];"
        "import modules.worker, modules.core.errors, modules.options.option, modules.core.events;"
        "import modules.system.cpu_memory; print('fine')"
    )
    command = [sys.executable, "-S", "-c", program]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert run.stdout == "fine\n", run.stderr
