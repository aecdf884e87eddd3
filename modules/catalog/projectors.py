"""The vision parts of GGUF models: files called mmproj beside them, which are no models themselves."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.formats.gguf_header import GgufHeader

MARK = "mmproj"
_WORDS = re.compile(r"[a-z]+|[0-9]+(?:\.[0-9]+)?b?")
_PRECISIONS = ("f16", "bf16", "q8_0", "f32")
"""Of several files for one model, the first of these is taken: half precision loses nothing that can be seen."""


def is_projector(path: Path, header: GgufHeader) -> bool:
    """Whether a GGUF file is the vision part of a model, by its name and its header."""
    return MARK in path.name.lower() and (header.kind == "mmproj" or header.architecture == "clip")


def with_projector(record: ModelRecord, projectors: Mapping[str, GgufHeader], shared: bool) -> ModelRecord:
    """Return the record of a GGUF file that knows of the `projectors` beside it, and is loaded with the one that fits.

    `projectors` are headers by file name. In a folder that is `shared` by any models, it must have a similar name.
    """
    header = record.header
    if header is None or not projectors:
        return record
    chosen = _choose(record.path.stem, header, projectors, shared)
    defaults = {**record.defaults, "mmproj": chosen} if chosen else record.defaults
    return dataclasses.replace(record, defaults=defaults, header=dataclasses.replace(header, projectors=projectors))


def projectors_of(record: ModelRecord) -> tuple[str, ...]:
    """Return the files beside a model that are its vision part: the chosen one, and those of other precisions."""
    chosen, header = record.defaults.get("mmproj"), record.header
    if header is None or not isinstance(chosen, str):
        return ()
    model = record.path.stem
    return tuple(
        name
        for name, projector in header.projectors.items()
        if _fits(header, projector) and _common_words(model, name) == _common_words(model, chosen)
    )


def _choose(model: str, header: GgufHeader, projectors: Mapping[str, GgufHeader], shared: bool) -> str:
    fitting = [name for name, projector in projectors.items() if _fits(header, projector)]
    ranked = sorted(fitting, key=lambda name: (-_common_words(model, name), _precision(name), name))
    return ranked[0] if ranked and (not shared or _common_words(model, ranked[0]) > 0) else ""


def _fits(header: GgufHeader, projector: GgufHeader) -> bool:
    """Whether the output of a projector has the size of the model's embeddings. Old files state another number."""
    width = projector.numbers.get("vision.projection_dim", 0)
    return projector.kind != "mmproj" or not width or width == header.embedding_length


def _common_words(model: str, projector: str) -> int:
    """Return how many words both names begin with, without "mmproj" and "model" in that of the projector."""
    words = [word for word in _words(projector) if word not in (MARK, "model")]
    pairs = zip(_words(model), words, strict=False)
    return next(
        (count for count, (left, right) in enumerate(pairs) if left != right), min(len(_words(model)), len(words))
    )


def _words(name: str) -> list[str]:
    return _WORDS.findall(name.lower().removesuffix(".gguf"))


def _precision(name: str) -> int:
    lower = name.lower()
    return next((index for index, one in enumerate(_PRECISIONS) if re.search(rf"(?<![a-z]){one}", lower)), 9)
