"""A new loader needs one row and one folder, a new option one row, and nothing else, as CONTRIBUTING.md says."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from modules.core.paths import ROOT
from tests.support.gguf_files import gguf

pytestmark = pytest.mark.usefixtures("whole_program")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the results of tests/support/new_loader.py, run with `--repeat-times 3`."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "model.gguf").write_bytes(gguf())
    command = [sys.executable, "-m", "tests.support.new_loader", str(folder), "--repeat-times", "3"]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    report: dict[str, Any] = json.loads(run.stdout)
    return report


def test_a_new_loader_can_be_chosen_in_settings_yaml_and_is_planned(results: dict[str, Any]) -> None:
    assert results["loader"] == "Echo"


def test_a_new_loader_is_explained_by_its_own_arguments(results: dict[str, Any]) -> None:
    call = results["explanation"]["calls"]["open_echo"]
    assert (call["context_length"], call["times"]) == (4096, 3)
    assert set(results["explanation"]["options"]) == {"n_ctx", "repeat_times"}


def test_a_new_loader_loads_answers_and_unloads(results: dict[str, Any]) -> None:
    assert results["answer"] == "hello hello hello "
    assert results["status"] == ["ready", "empty"]


def test_a_new_option_is_a_flag_that_reaches_the_engine(results: dict[str, Any]) -> None:
    assert results["source"] == "flag"
    assert results["answer"].count("hello") == 3


def test_a_new_option_belongs_to_the_loaders_of_its_table(results: dict[str, Any]) -> None:
    assert results["option"]["loaders"] == ["llama.cpp", "Echo"]


def test_a_new_option_has_a_widget(results: dict[str, Any]) -> None:
    widget = results["option"]["widget"]
    assert (widget["type"], widget["label"], widget["maximum"]) == ("Slider", "Repetitions", 9)
    assert widget["info"].startswith("How often the answer is repeated.")


def test_a_new_option_is_validated(results: dict[str, Any]) -> None:
    assert "a whole number from 1 to 9" in results["option"]["error"]


def test_a_new_option_is_saved_per_model_under_its_key(results: dict[str, Any]) -> None:
    assert results["saved"] == {"loader": "Echo", "repeat_times": 4}


def test_a_new_option_is_documented(results: dict[str, Any]) -> None:
    line = results["option"]["documentation"]
    assert "`--repeat-times`" in line and "How often the answer is repeated." in line and "重复" in line
