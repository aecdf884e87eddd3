"""Whether what a repository offers would fit into this machine's memory: told before it is downloaded.

Of all GGUF files of a repository one header is read: they are one model, whose quantisations differ in their weights'
size alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.app import App
from modules.catalog.catalog import ModelRecord, described
from modules.catalog.unsupported import unsupported
from modules.core.errors import WebUIError, Words
from modules.formats.gguf_header import GgufHeader
from modules.hub import file_choices
from modules.hub.file_choices import Choice
from modules.hub.repository import Repository
from modules.planning.fit import TIGHT, Fit

MOST_PARTS = 4
"""Of a set with more parts, the first one's header alone is read: a request each is too much."""


@dataclass(frozen=True)
class Verdict:
    """`kind` is "fits", "tight" or "short", by the bytes that are needed and `free`; or "unsupported", for the reason
    `why`. `context` is the length of the context that was reckoned with, 0 for weights alone."""

    kind: str
    need: int = 0
    free: int = 0
    context: int = 0
    why: Words | None = None


def verdicts(app: App, repository: Repository) -> dict[str, Verdict]:
    """By the name of the choice; of what is no weights, or cannot be told, none. DownloadError if no hub has the
    header; ModelProblem if it is none."""
    if file_choices.kind(repository) == "lora":
        return {}
    known = [each for each in file_choices.choices(repository) if not each.missing]
    models = [each for each in known if each.group == "gguf"]
    plain = [each for each in known if each.group in ("weights", "pickle")]
    found = {each.name: _plain(app, each.size) for each in plain} if app.available_memory() else {}
    return (found | _of_gguf(app, repository, models)) if models else found


def _plain(app: App, size: int) -> Verdict:
    """By the weights alone: what comes on top depends on how they will be loaded."""
    free = app.room_for_weights()
    return Verdict("short" if size > free else "tight" if size > TIGHT * free else "fits", size, free)


def _of_gguf(app: App, repository: Repository, models: Sequence[Choice]) -> dict[str, Verdict]:
    sample = min(models, key=lambda each: (len(each.files), each.size))
    files = sample.files if len(sample.files) <= MOST_PARTS else sample.files[:1]
    header = dataclasses.replace(app.hubs.header(repository, files), size=sample.size)
    if why := unsupported(header):
        return {each.name: Verdict("unsupported", why=why) for each in models}
    found = {each.name: _verdict(app, _scaled(header, each.size)) for each in models}
    return {name: each for name, each in found.items() if each}


def _scaled(header: GgufHeader, size: int) -> GgufHeader:
    """That of the same model in another quantisation, whose weights take `size` bytes."""
    share = size / max(header.size, 1)
    return dataclasses.replace(header, size=size, sizes={key: int(each * share) for key, each in header.sizes.items()})


def _verdict(app: App, header: GgufHeader) -> Verdict | None:
    """As the Model tab would say if it were here, with the settings that a new model gets."""
    record = described(ModelRecord("", Path(), "gguf", header.size), header)
    try:
        plan = app.plan(record, saved={})
        fit = app.fit(plan)
    except WebUIError:  # flags that this model cannot have: the Model tab says so when it is here
        return None
    return _told(fit, int(plan.settings["n_ctx"].value) or header.context_length) if fit else None


def _told(fit: Fit, context: int) -> Verdict | None:
    parts = [part for part in fit.parts if part.need.total]
    kinds = {part.verdict for part in parts}
    if "unknown" in kinds or not parts:
        return None
    kind = next(each for each in ("short", "tight", "fits") if each in kinds)
    return Verdict(kind, sum(part.need.total for part in parts), sum(part.device.free for part in parts), context)
