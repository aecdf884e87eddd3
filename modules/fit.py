"""Whether a model fits into memory with given options, and what would make it fit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from modules.estimate import PAD, Estimate, estimate, largest_context
from modules.gguf import GgufHeader
from modules.options import Value

SMALLEST = 2 * PAD
"""The context below which we do not go by ourselves: nobody can chat in less."""
TIGHT = 0.9
"""The part of free memory from which on other programs will feel it. What we propose stays below."""


@dataclass(frozen=True)
class Fit:
    """What is needed and what is free, in bytes (0: unknown); each remedy is a change of options that makes it fit."""

    need: Estimate
    free: int
    remedies: tuple[Mapping[str, Value], ...] = ()

    @property
    def verdict(self) -> str:
        """ "fits", "tight", "short", or "unknown"."""
        if not self.free:
            return "unknown"
        if self.need.total > self.free:
            return "short"
        return "tight" if self.need.total > TIGHT * self.free else "fits"


def fit(header: GgufHeader, options: Mapping[str, Value], free: int) -> Fit:
    """For the options of llama.cpp, all in main memory."""
    need = estimate(header, options)
    short = 0 < free < need.total
    return Fit(need, free, tuple(_remedies(header, options, free)) if short else ())


def _remedies(header: GgufHeader, options: Mapping[str, Value], free: int) -> Iterator[Mapping[str, Value]]:
    """A smaller context; a smaller cache, where that alone is enough; both, where neither is."""
    free = int(TIGHT * free)
    smaller = largest_context(header, options, free)
    if smaller >= SMALLEST:
        yield {"n_ctx": smaller}
    for key in ("cache_8bit", "cache_4bit"):
        changed = {**options, key: True}
        if not options[key] and not options["cache_4bit"] and estimate(header, changed).total <= free:
            yield {key: True}
    both = largest_context(header, {**options, "cache_4bit": True}, free)
    if smaller < SMALLEST <= both:
        yield {"cache_4bit": True, "n_ctx": both}


def fitting_context(header: GgufHeader, options: Mapping[str, Value], free: int) -> int:
    """The context to take where none is asked for: the model's own or, where memory is short, what fits."""
    wish = int(options["n_ctx"]) or header.context_length
    if not free or estimate(header, {**options, "n_ctx": wish}).total <= free:
        return wish
    return min(wish, max(largest_context(header, {**options, "n_ctx": wish}, int(TIGHT * free)), SMALLEST))
