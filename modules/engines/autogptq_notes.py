"""What is said of each AutoGPTQ option that does not do here what its name promises."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from modules.engines.autogptq_arguments import Plan
from modules.engines.hf_arguments import Machine
from modules.events import Note
from modules.options import Value


def notes(path: Path, options: Mapping[str, Value], machine: Machine) -> Iterator[Note]:
    plan = Plan(path, options, machine)
    yield from ()
