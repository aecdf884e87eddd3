"""The memory estimate of llamacpp_HF, compared with real workers."""

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


def test_the_estimate_includes_the_libraries_and_the_second_cache(smollm2: Path, has_amx: bool) -> None:
    estimated, measured = [], []
    for cfg_cache in (False, True):
        form = {"n_ctx": 512, "no_mmap": has_amx, "cfg_cache": cfg_cache}
        settings: Any = load_arguments(smollm2, LLAMACPP_HF, **form)["options"]
        estimated.append(placed(read_header(smollm2), settings)[0].total)
        measured.append(filled_peak(smollm2, LLAMACPP_HF, **form) - idle_peak(smollm2))
        assert estimated[-1] == pytest.approx(measured[-1], rel=0.1)
    assert estimated[1] - estimated[0] == pytest.approx(measured[1] - measured[0], rel=0.5)


def test_memory_for_torch_is_not_available_to_the_context(smollm2: Path) -> None:
    header = read_header(smollm2)
    settings: Any = load_arguments(smollm2, LLAMACPP_HF, n_ctx=2048)["options"]
    torch = placed(header, settings)[0].total - llamacpp.placed(header, settings)[0].total
    assert torch == freed(header, settings)[0] - llamacpp.freed(header, settings)[0] > 0
    enough = placed(header, {**settings, "n_ctx": 1024})[0].total
    assert largest_context(header, settings, [enough]) == 1024
    assert {"n_ctx": 1024} in list(remedies(header, settings, [enough]))
