"""The engine, which runs in the worker. A real one imports its backend in this file."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from pathlib import Path

from modules.core.events import Done, Info, Json, Progress, Text
from modules.engines.engine_protocol import Operations, Report
from modules.options.option import Value
from tests.support.echo_loader.arguments import arguments


class Echo:
    """A SerialEngine whose tokens are the bytes of the text."""

    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None:
        call = arguments(path, options, None)["open_echo"]
        report(Progress("weights", 1.0))
        self._times = call["times"]
        self.info = Info(context_length=call["context_length"])
        self.operations: Operations = {}
        self.questions: Operations = {"count": lambda text: len(text.encode())}

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return list(text.encode())

    def generate(self, prompt: list[int], params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]:
        for _ in range(self._times):
            yield Text(bytes(prompt).decode())
        return Done("stop", prompt_tokens=len(prompt), completion_tokens=self._times * len(prompt))
