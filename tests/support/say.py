"""A test engine that answers what its prompt tells it to, one character a token.

The answer is what stands between the last "SAY[" of the prompt and the "]YAS" after it; without these, "nothing". Each
bell character (\\a) in it is half a second of silence; at a form feed (\\f) it fails. It ends at a stop string and at
`max_new_tokens`, like those of real engines. A model that is named like a file of tests/support/family_templates has
that chat template.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Generator, Mapping
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.core.events import Done, Info, Json, Progress, Text
from modules.core.fill_in_middle import FimTokens
from modules.engines.engine_loader import EngineLoader
from modules.engines.engine_protocol import Report
from modules.engines.text_stream import TextStream
from modules.loaders.load_settings import resolve
from modules.loaders.registry import LOADERS
from modules.options.option import Value
from modules.runtime.load_plan import LoadPlan

TEMPLATES = Path(__file__).parent / "family_templates"
PAUSE_SECONDS = 0.5
CONTEXT = 100_000
FIM = FimTokens(0xE000, 0xE001, 0xE002, stops=("<|file_sep|>",))
"""Characters for private use, by which the prompt of a gap can be recognized."""


def say(text: str) -> str:
    """Return a message to which the answer is `text`."""
    return f"SAY[{text}]YAS"


def say_plan(name: str = "say") -> LoadPlan:
    """Return the plan of a load; `name` may be that of a template's file, or "fim", which fills in the middle."""
    loader = dataclasses.replace(
        LOADERS["llama.cpp"], name="say", engine="tests.support.say", packages=(), overlay=None, binds_threads=False
    )
    settings = resolve(loader, model={}, saved={}, flags={}, form={})
    return LoadPlan(ModelRecord(name, Path("/models") / name, "gguf", size=0), loader, settings)


class Say:
    def __init__(self, path: Path, options: Mapping[str, Value], report: Report) -> None:
        template = TEMPLATES / f"{path.name}.jinja"
        self.info = Info(
            CONTEXT,
            chat_template=template.read_text(encoding="utf-8") if template.is_file() else "",
            vocabulary_size=0x110000,
            fim=FIM if path.name == "fim" else None,
        )
        self.operations: dict[str, object] = {}
        self.questions = {
            "encode": lambda text, add_special=True: list(map(ord, text)),
            "decode": lambda tokens: "".join(map(chr, tokens)),
            "count": lambda text: len(text),
            "pieces": lambda text, add_special=True: [[ord(one), one, one.encode().hex(), False] for one in text],
        }

    def tokenize(self, text: str, params: Mapping[str, Json]) -> list[int]:
        return list(map(ord, text))

    def generate(self, prompt: list[int], params: Mapping[str, Json]) -> Generator[Text | Progress, None, Done]:
        _, marker, rest = "".join(map(chr, prompt)).rpartition("SAY[")
        answer = rest.partition("]YAS")[0] if marker else "nothing"
        stream, count, limit = TextStream(params["stop"]), 0, params["max_new_tokens"]
        for character in answer:
            if character == "\a":
                time.sleep(PAUSE_SECONDS)
                continue
            if character == "\f":
                raise RuntimeError("the engine broke")
            count += 1
            if text := stream.feed(character.encode()):
                yield text
            if stream.stopped or count == limit:
                break
        if text := stream.finish():
            yield text
        reason = "length" if count == limit and not stream.stopped else "stop"
        return Done(reason, len(prompt), 0, count, stop_string=stream.stop_string)


LOADER = EngineLoader[None](
    "Say",
    environment=lambda: None,
    arguments=lambda path, options, _environment: {"say": {"path": str(path)}},
    notes=lambda _path, _options, _environment: (),
    load=Say,
)
