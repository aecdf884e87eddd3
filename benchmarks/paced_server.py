"""Run `server.py` with one more loader, "Paced", which answers at a constant speed, whatever the model and the prompt.

    .venv/bin/python benchmarks/paced_server.py --loader Paced --model <any GGUF file> [flags of server.py]

Each word of an answer is the time at which it was generated: the last seven digits of the milliseconds since the
epoch. They come as Markdown with paragraphs, bold words, lists, code and formulas. The environment variable PACED_RATE
is the number of tokens a second.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import cast

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from modules.core.events import Done, Info, Json, Progress, Text
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import Operations, Report
from modules.options.option import Value

RATE = float(os.environ.get("PACED_RATE", "100"))
CYCLE_MS = 10_000_000
"""The times repeat after so many milliseconds."""
BLOCK = 50
"""Tokens of a paragraph, of a list or of a code block."""
_CHARACTERS_PER_TOKEN = 4
_CONTEXT = 1 << 20


def stamp() -> str:
    """Return the current time as the words of answers have it."""
    return f"{time.time_ns() // 1_000_000 % CYCLE_MS:07d}"


def word(index: int) -> str:
    """Return the token with this index: the current time, and the Markdown around it."""
    kind, position = index // BLOCK % 5, index % BLOCK
    text = stamp()
    if kind == 1:  # a list
        return f"\n- {text}" if position % 10 == 0 else f" {text}"
    if kind == 2:  # code
        opening, closing = "\n\n```python\n" if position == 0 else "", "\n```\n\n" if position == BLOCK - 1 else ""
        return f"{opening}x_{index} = {text}\n{closing}"
    if kind == 3 and position % 10 == 5:  # a formula
        return f" $x_{{{index}}}^2 = {text}$"
    decorated = f"**{text}**" if position % 10 == 0 else text
    return f"\n\n{decorated}" if position == 0 else f" {decorated}"


class Paced:
    """A SerialEngine. Its tokens are groups of characters, whose text is not needed."""

    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None:
        report(Progress("weights", 1.0))
        self.info = Info(context_length=_CONTEXT)
        self.operations: Operations = {}
        self.questions: Operations = {"count": lambda text: len(text) // _CHARACTERS_PER_TOKEN}

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return [0] * (len(text) // _CHARACTERS_PER_TOKEN)

    def generate(self, prompt: list[int], params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]:
        began = time.monotonic()
        count = int(params["max_new_tokens"])
        for index in range(count):
            time.sleep(max(began + index / RATE - time.monotonic(), 0))
            yield Text(word(index))
        return Done("length", prompt_tokens=len(prompt), completion_tokens=count)


LOADER = EngineLoader[None](
    "Paced",
    environment=lambda: None,
    arguments=lambda path, options, environment: {"paced": {"path": str(path)}},
    notes=lambda path, options, environment: (),
    load=Paced,
)


def main() -> int:
    from modules.loaders import registry

    row = registry.Loader(
        "Paced",
        engine="benchmarks.paced_server",
        formats=("gguf",),
        options=("n_ctx",),
        samplers=registry.LOADERS["llama.cpp"].samplers,
        abilities=frozenset(),
        packages=(),
        install="",
    )
    cast(dict[str, registry.Loader], registry.LOADERS)[row.name] = row
    import server

    return server.main(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
