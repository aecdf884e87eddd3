"""Calls that the grammar of a format enforces are calls by its parser; random weights write none by themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from modules.chat.tools.use import ToolUse
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.chat.tools.test_parser import parts_of, split
from tests.support.answers import parameters
from tests.support.tool_replies import STYLES, tool, use_of
from tests.support.worker_pool import WorkerPool

COLORS = ["red", "dark green", "蓝"]
PAINT = tool(
    "paint",
    {
        "color": {"type": "string", "enum": COLORS},
        "layers": {"type": "integer", "minimum": 1, "maximum": 9},
        "glossy": {"type": "boolean"},
        "sides": {"type": "array", "items": {"enum": [1, 2, 3]}, "maxItems": 3},
    },
    ["color", "layers"],
)
PAINT = dataclasses.replace(PAINT, parameters={**PAINT.parameters, "additionalProperties": False})
NOW = tool("now", {})


@pytest.fixture(scope="module")
def worker(tiny: Path, workers: WorkerPool) -> Iterator[WorkerProcess]:
    options = {"n_ctx": 512, "parallel": 2, "threads": 1, "threads_batch": 1}
    with workers.lease(tiny, LOADERS["llama.cpp"], **options) as pooled:
        yield pooled.worker


def test_an_enforced_call_is_read_in_every_format(worker: WorkerProcess, subtests: pytest.Subtests) -> None:
    for name in STYLES:
        use = ToolUse((PAINT, NOW), use_of(name).support)
        for seed in range(2):
            with subtests.test(name, seed=seed):
                params = parameters(max_new_tokens=300, temperature=1, seed=seed)
                params |= {"answer_grammar": use.grammar([PAINT], parallel=False), "visible": use.visible}
                reply = "".join(
                    getattr(event, "text", "") for event in worker.events("generate", prompt="Hi", params=params)
                )
                pieces, faults = split(use, [reply])
                assert not faults and len(parts_of(pieces)) == 1, ascii(reply)
                kind, called, values = parts_of(pieces)[0]
                assert (kind, called) == ("call", "paint") and {"color", "layers"} <= set(values)
                assert values["color"] in COLORS and 1 <= values["layers"] <= 9
                assert isinstance(values.get("glossy", True), bool) and isinstance(values.get("sides", []), list)
