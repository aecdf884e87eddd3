"""Predict whether the files of a repository would fit in this machine's memory, before they are downloaded.

Of all GGUF files of a repository only one header is read: they are one model, and its quantizations differ in the size
of their weights alone.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.catalog.record_reader import with_header
from modules.catalog.unsupported import unsupported_reason
from modules.core.errors import WebUIError, Words
from modules.formats.gguf_header import GgufHeader
from modules.hub import file_choices
from modules.hub.file_choices import Choice
from modules.hub.mirrors import Mirrors
from modules.hub.repository import Repository
from modules.planning.fit import TIGHT, Fit
from modules.planning.load_request import LoadRequest
from modules.planning.memory_budget import MemoryBudget
from modules.planning.planner import Planner

MAX_PARTS = 4
"""Of a model split into more files than this only the first header is read: one request per file would be too many."""


@dataclass(frozen=True)
class Verdict:
    """`kind` is "fits", "tight" or "short", from the bytes that are needed and free; or "unsupported", for the reason
    `why`. `context` is the context length that was assumed, in tokens; 0 if only weights were counted."""

    kind: str
    need: int = 0
    free: int = 0
    context: int = 0
    why: Words | None = None


class DownloadFit:
    """Compares the files of a repository with this machine's memory."""

    def __init__(self, planner: Planner, memory: MemoryBudget, mirrors: Mirrors) -> None:
        self._planner, self._memory, self._mirrors = planner, memory, mirrors

    def verdicts(self, repository: Repository) -> dict[str, Verdict]:
        """Return a verdict for each choice of files, by its name; none where there are no weights or no estimate.

        Raises DownloadError if no mirror has the header, ModelProblem if it is invalid.
        """
        if file_choices.repository_kind(repository) == "lora":
            return {}
        complete = [choice for choice in file_choices.list_choices(repository) if not choice.missing]
        gguf = [choice for choice in complete if choice.group == "gguf"]
        plain = [choice for choice in complete if choice.group in ("weights", "pickle")]
        verdicts: dict[str, Verdict] = {}
        if self._memory.available_memory():
            verdicts = {choice.name: self._verdict_by_size(choice.size) for choice in plain}
        return (verdicts | self._gguf_verdicts(repository, gguf)) if gguf else verdicts

    def _verdict_by_size(self, size: int) -> Verdict:
        # By the weights alone: what else is needed depends on the options they will be loaded with.
        free = self._memory.room_for_weights()
        return Verdict("short" if size > free else "tight" if size > TIGHT * free else "fits", size, free)

    def _gguf_verdicts(self, repository: Repository, choices: Sequence[Choice]) -> dict[str, Verdict]:
        sample = min(choices, key=lambda choice: (len(choice.files), choice.size))
        files = sample.files if len(sample.files) <= MAX_PARTS else sample.files[:1]
        header = dataclasses.replace(self._mirrors.gguf_header(repository, files), size=sample.size)
        if reason := unsupported_reason(header):
            return {choice.name: Verdict("unsupported", why=reason) for choice in choices}
        estimates = {choice.name: self._verdict(_scaled(header, choice.size)) for choice in choices}
        return {name: verdict for name, verdict in estimates.items() if verdict}

    def _verdict(self, header: GgufHeader) -> Verdict | None:
        """Return what the Model page would say of this model with the settings that a new model gets."""
        record = with_header(ModelRecord("", Path(), "gguf", header.size), header)
        try:
            plan = self._planner.plan(LoadRequest(record, saved={}))
            fit = self._memory.fit(plan)
        except WebUIError:  # flags that this model cannot have: the Model page reports them after the download
            return None
        return _summarize(fit, int(plan.settings["n_ctx"].value) or header.context_length) if fit else None


def _scaled(header: GgufHeader, size: int) -> GgufHeader:
    """Return the header of the same model in another quantization, whose weights take `size` bytes."""
    ratio = size / max(header.size, 1)
    return dataclasses.replace(header, size=size, sizes={key: int(part * ratio) for key, part in header.sizes.items()})


def _summarize(fit: Fit, context: int) -> Verdict | None:
    parts = [part for part in fit.parts if part.need.total]
    kinds = {part.verdict for part in parts}
    if "unknown" in kinds or not parts:
        return None
    kind = next(kind for kind in ("short", "tight", "fits") if kind in kinds)
    return Verdict(kind, sum(part.need.total for part in parts), sum(part.device.free for part in parts), context)
