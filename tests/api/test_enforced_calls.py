"""Enforced calls of tools, alike on every loader: by random weights, so that only the grammar makes them calls."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modules.api.answer_forms import text_then
from modules.chat.tools.generic import GENERIC_CALLS
from modules.chat.tools.probing import ToolSupport
from modules.chat.tools.tool import Tool
from modules.chat.tools.use import ToolUse
from modules.core.errors import OptionError
from modules.core.pieces import ARGUMENTS, CALL, TEXT
from modules.core.reasoning import ReasoningParser
from modules.loaders.registry import LOADERS
from modules.runtime.worker_process import WorkerProcess
from tests.support.answers import parameters
from tests.support.worker_pool import WorkerPool

OPTIONS: dict[str, dict[str, object]] = {
    "llama.cpp": {"n_ctx": 512, "parallel": 2, "threads": 1, "threads_batch": 1},
    "Transformers": {},
    "llamacpp_HF": {"n_ctx": 512, "threads": 1, "threads_batch": 1},
}
COLORS = ["red", "green", "蓝"]
TOOLS = (
    Tool(
        "paint",
        parameters={
            "type": "object",
            "properties": {"color": {"enum": COLORS}, "layers": {"type": "integer", "minimum": 1, "maximum": 9}},
            "required": ["color", "layers"],
            "additionalProperties": False,
        },
    ),
    Tool("now", parameters={"type": "object", "properties": {}, "additionalProperties": False}),
)
USE = ToolUse(TOOLS, ToolSupport(calls=GENERIC_CALLS))


@pytest.fixture(scope="module", params=OPTIONS)
def worker(
    request: pytest.FixtureRequest, tiny: Path, tiny_folder: Path, workers: WorkerPool
) -> Iterator[WorkerProcess]:
    path = tiny_folder if request.param == "Transformers" else tiny
    with workers.lease(path, LOADERS[request.param], **OPTIONS[request.param]) as pooled:
        yield pooled.worker


def reply(worker: WorkerProcess, grammar: Any, **settings: Any) -> str:
    settings = {"max_new_tokens": 300, "temperature": 1, **settings}
    params = {**parameters(**settings), "answer_grammar": grammar, "grammar_field": "tools"}
    return "".join(getattr(event, "text", "") for event in worker.events("generate", prompt="Hi", params=params))


def calls_of(text: str) -> list[tuple[str, Any]]:
    """Return the calls in a reply that is nothing but calls."""
    parser = USE.parser(ReasoningParser(()))
    pieces = [*parser.feed(text), *parser.end()]
    assert not parser.faults and not [content for kind, content in pieces if kind == TEXT and content.strip()], text
    calls: list[list[str]] = []
    for kind, content in pieces:
        if kind == CALL:
            calls.append([content, ""])
        elif kind == ARGUMENTS:
            calls[-1][1] += content
    return [(name, json.loads(arguments)) for name, arguments in calls]


def test_a_required_call_has_valid_arguments(worker: WorkerProcess) -> None:
    for seed in range(3):
        ((name, arguments),) = calls_of(reply(worker, USE.grammar(TOOLS[:1], parallel=False), seed=seed))
        assert name == "paint" and arguments["color"] in COLORS and 1 <= arguments["layers"] <= 9


def test_one_or_more_of_several_tools_are_called(worker: WorkerProcess) -> None:
    found = [calls_of(reply(worker, USE.grammar(TOOLS, parallel=True), seed=seed)) for seed in range(3)]
    assert all(found) and {name for calls in found for name, _ in calls} <= {"paint", "now"}


def test_text_may_come_before_a_call_that_is_not_required(worker: WorkerProcess) -> None:
    grammar = text_then(USE.grammar(TOOLS[1:], parallel=False), USE.calls.openers)
    assert len(reply(worker, grammar, max_new_tokens=8).split()) > 1


def test_arguments_that_cannot_be_enforced_are_refused_by_the_word(worker: WorkerProcess) -> None:
    unique = Tool("tag", parameters={"type": "object", "properties": {"tags": {"type": "array", "uniqueItems": True}}})
    with pytest.raises(OptionError, match="uniqueItems") as error:
        reply(worker, USE.grammar([unique], parallel=False))
    assert error.value.option == "tools"
