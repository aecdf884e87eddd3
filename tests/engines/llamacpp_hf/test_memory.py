"""The memory estimate of llamacpp_HF against real workers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modules.engines.llamacpp import memory as llamacpp
from modules.engines.llamacpp_hf.memory import freed, largest_context, placed, remedies
from modules.formats.gguf_header import read_header
from modules.loaders.registry import LOADERS
from tests.conftest import load_arguments
from tests.engines.llamacpp.test_memory import filled_peak, idle_peak

LLAMACPP_HF = LOADERS["llamacpp_HF"]


def test_under_transformers_the_libraries_and_a_second_cache_count(smollm2: Path) -> None:
    said, taken = [], []
    for form in ({}, {"cfg_cache": True}):
        settled: Any = load_arguments(smollm2, LLAMACPP_HF, n_ctx=512, **form)["options"]
        said.append(placed(read_header(smollm2), settled)[0].total)
        taken.append(filled_peak(smollm2, LLAMACPP_HF, n_ctx=512, **form) - idle_peak(smollm2))
        assert said[-1] == pytest.approx(taken[-1], rel=0.1)
    assert said[1] - said[0] == pytest.approx(taken[1] - taken[0], rel=0.5)


def test_torch_takes_main_memory_from_the_context(smollm2: Path) -> None:
    header = read_header(smollm2)
    settled: Any = load_arguments(smollm2, LLAMACPP_HF, n_ctx=2048)["options"]
    torch = placed(header, settled)[0].total - llamacpp.placed(header, settled)[0].total
    assert torch == freed(header, settled)[0] - llamacpp.freed(header, settled)[0] > 0
    enough = placed(header, {**settled, "n_ctx": 1024})[0].total
    assert largest_context(header, settled, [enough]) == 1024
    assert {"n_ctx": 1024} in list(remedies(header, settled, [enough]))
