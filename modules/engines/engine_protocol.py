"""What the worker asks of an engine.

An engine is made with `(path, options, report)` and has `info` and `operations`. It generates in one of two ways:
a `BatchingEngine` runs all its calls together, step by step; a `SerialEngine` has one generator a call, and the
worker lets such calls wait for each other. The module of an engine also has `explain(path, options)`: what would be
called, as JSON, without loading anything.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from modules.core.events import Done, Event, Info, Json, Progress, Text
from modules.options.option import Value

Report = Callable[[Progress], None]
Operations = Mapping[str, Callable[..., Json]]
"""By name. `operations` are answered between two steps. `questions`, such as "encode", are quick and need nothing that
a step uses: another thread answers them at once, while a step goes on."""


class BatchingEngine(Protocol):
    info: Info
    questions: Operations
    operations: Operations

    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None: ...

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        """Return the tokens of a prompt, after a BOS token if the model wants one. Called from any thread."""

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        """Queue a generation that continues the tokens of `prompt`; its events come from `step`.

        Raises a WebUIError if it cannot be taken.
        """

    def cancel(self, call: int) -> None:
        """Drop that call, if it is still there, without a further event."""

    def step(self) -> Iterator[tuple[int, Event]]:
        """One turn of the work at hand, with the events it brought, by call."""

    @property
    def idle(self) -> bool:
        """Whether `step` would have nothing to do."""

    def interrupt(self, urgent: bool) -> None:
        """From another thread: a request has come. A long step should end early; if it is `urgent`, every step.

        That holds for the step after this one, too, until `resume` is called."""

    def resume(self) -> None:
        """All requests that interrupted are about to be taken: steps may go on."""


class SerialEngine(Protocol):
    info: Info
    questions: Operations
    operations: Operations

    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None: ...

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        """As a BatchingEngine's."""

    def generate(self, prompt: list[int], params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]: ...
