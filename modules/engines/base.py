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

from modules.events import Done, Event, Info, Json, Progress, Text
from modules.options import Value

Report = Callable[[Progress], None]
Operations = Mapping[str, Callable[..., Json]]
"""Quick questions by name, such as "encode": answered between two steps."""


class BatchingEngine(Protocol):
    info: Info
    operations: Operations

    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None: ...

    def submit(self, call: int, prompt: str, params: Mapping[str, Json]) -> None:
        """Take a generation in; its events come from `step`. WebUIError if it can not be taken."""

    def cancel(self, call: int) -> None:
        """Drop that call, if it is still there, without a further event."""

    def step(self) -> Iterator[tuple[int, Event]]:
        """One turn of the work at hand, with the events it brought, by call."""

    @property
    def idle(self) -> bool:
        """Whether `step` would have nothing to do."""


class SerialEngine(Protocol):
    info: Info
    operations: Operations

    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None: ...

    def generate(self, prompt: str, params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]: ...
