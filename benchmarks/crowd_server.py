"""Run `server.py` with one more loader, "Crowd", which gives all its answers a token at once, at a constant rate.

    .venv/bin/python benchmarks/crowd_server.py --loader Crowd --model <any GGUF file> [flags of server.py]

The environment variable CROWD_RATE is the number of tokens a second of each answer. Tokens are as in paced_server.py,
or numbers from 0 on if CROWD_NUMBERS is set.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.paced_server import word
from modules.core.events import Done, Event, Info, Json, Progress, Text
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import Operations, Report
from modules.options.option import Value

RATE = float(os.environ.get("CROWD_RATE", "10"))
NUMBERS = "CROWD_NUMBERS" in os.environ
_CONTEXT = 1 << 20
_CHARACTERS_PER_TOKEN = 4


class Crowd:
    """A BatchingEngine without a limit of generations."""

    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None:
        report(Progress("weights", 1.0))
        self.info = Info(context_length=_CONTEXT)
        self.operations: Operations = {}
        self.questions: Operations = {"count": lambda text: len(text) // _CHARACTERS_PER_TOKEN}
        self._written: dict[int, int] = {}  # tokens of each call
        self._wanted: dict[int, int] = {}
        self._next = 0.0

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return [0] * (len(text) // _CHARACTERS_PER_TOKEN)

    def prepare_grammars(self) -> None:
        """Do nothing: it has no grammars."""

    def submit(self, call: int, prompt: list[int], params: Mapping[str, Json]) -> None:
        self._written[call], self._wanted[call] = 0, int(params["max_new_tokens"])

    def cancel(self, call: int) -> None:
        self._written.pop(call, None)

    @property
    def idle(self) -> bool:
        return not self._written

    def step(self) -> Iterator[tuple[int, Event]]:
        now = time.monotonic()
        self._next = max(self._next + 1 / RATE, now)
        time.sleep(self._next - now)
        for call, written in list(self._written.items()):
            yield call, Text(f" {written}" if NUMBERS else word(written))
            self._written[call] = written + 1
            if written + 1 >= self._wanted[call]:
                del self._written[call]
                yield call, Done("length", completion_tokens=written + 1)

    def interrupt(self, urgent: bool) -> None:
        pass

    def resume(self) -> None:
        pass


LOADER = EngineLoader[None](
    "Crowd",
    environment=lambda: None,
    arguments=lambda path, options, environment: {"crowd": {"path": str(path)}},
    notes=lambda path, options, environment: (),
    load=Crowd,
)


def main() -> int:
    from modules.loaders import registry

    row = registry.Loader(
        "Crowd",
        engine="benchmarks.crowd_server",
        formats=("gguf",),
        options=("n_ctx",),
        samplers=registry.LOADERS["llama.cpp"].samplers,
        abilities=frozenset({"parallel"}),
        packages=(),
        install="",
    )
    cast(dict[str, registry.Loader], registry.LOADERS)[row.name] = row
    import server

    return server.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
