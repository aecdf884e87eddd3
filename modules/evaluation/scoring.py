"""Score the windows of a text with a loaded model, and keep or compare distributions."""

from __future__ import annotations

import asyncio
import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from modules.downloads.disk import free_space
from modules.engines.loglikelihoods import Loglikelihoods
from modules.evaluation.errors import KlImpossible
from modules.evaluation.prepared import ABILITY, PreparedText
from modules.evaluation.request import MAX_KL_WINDOWS
from modules.evaluation.state import Divergence
from modules.evaluation.statistics import clustered_mean, exp, percentile
from modules.runtime.loaded_model import LoadedModel

MAX_KL_BYTES = 16 << 30
DISK_RESERVE = 1 << 30
"""Bytes that distributions leave free on the disk."""


@dataclass
class Scores:
    """Log-probabilities of the targets, window by window, and after a comparison the divergence at every target.

    `total` is the sum of the log-probabilities of so many `tokens`.
    """

    logprobs: list[Sequence[float]] = field(default_factory=list)
    total: float = 0.0
    tokens: int = 0
    kl: list[Sequence[float]] = field(default_factory=list)
    same_top: list[Sequence[bool]] = field(default_factory=list)

    def add(self, found: Loglikelihoods) -> None:
        """Take the scores of the next window."""
        self.logprobs.append(found.logprobs)
        self.total += math.fsum(found.logprobs)
        self.tokens += len(found.logprobs)
        if found.kl:
            self.kl.append(found.kl)
            self.same_top.append(found.same_top)

    @property
    def running_perplexity(self) -> float:
        """The perplexity of the windows so far; infinity or NaN as in `statistics.perplexity`."""
        return exp(-self.total / max(self.tokens, 1))

    @property
    def divergence(self) -> Divergence | None:
        """The summary of the comparison; None if there was none."""
        if not self.kl:
            return None
        return Divergence(
            clustered_mean(self.kl),
            percentile([value for window in self.kl for value in window], 0.99),
            clustered_mean([list(map(float, window)) for window in self.same_top]),
            len(self.kl),
        )


class Distributions:
    """A folder for the distributions of the reference, one file a window; deleted by `close`.

    Raises KlImpossible if they are too large for the limit or for the disk.
    """

    def __init__(self, folder: Path, prepared: PreparedText, vocabulary_size: int) -> None:
        self.folder, self._hash = folder, prepared.windows_hash
        self.windows = min(len(prepared.windows), MAX_KL_WINDOWS)
        size = sum(span.end - span.start for span in prepared.windows.spans[: self.windows]) * vocabulary_size * 4
        if size > MAX_KL_BYTES:
            gib, limit = size / 2**30, MAX_KL_BYTES >> 30
            raise KlImpossible(
                {
                    "en": f"They would take {gib:.1f} GiB; {limit} GiB is the limit. Choose fewer windows or a smaller "
                    "stride.",
                    "zh": f"数据需要 {gib:.1f} GiB，上限为 {limit} GiB。请减少窗口数或减小步长。",
                }
            )
        if (free := free_space(folder)) < size + DISK_RESERVE:
            needed, gib_free = (size + DISK_RESERVE) / 2**30, free / 2**30
            raise KlImpossible(
                {
                    "en": f"They would take {needed:.1f} GiB of disk space in {folder}, of which {gib_free:.1f} GiB "
                    "are free. Free disk space, or choose fewer windows.",
                    "zh": f"数据需要 {folder} 中 {needed:.1f} GiB 的磁盘空间，仅剩 {gib_free:.1f} GiB。"
                    "请清理磁盘，或减少窗口数。",
                }
            )
        folder.mkdir(parents=True, exist_ok=True)

    def check(self, prepared: PreparedText) -> None:
        """Raise KlImpossible unless the other model scores the same tokens."""
        if prepared.windows_hash != self._hash:
            raise KlImpossible(
                {
                    "en": "The models do not cut the text into the same tokens.",
                    "zh": "两个模型对文本的分词不同。",
                }
            )

    def file(self, index: int) -> str:
        """Return the path of a window's file; "" for windows of which none is kept."""
        return str(self.folder / f"{index}.logprobs") if index < self.windows else ""

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


async def score(
    model: LoadedModel,
    prepared: PreparedText,
    report: Callable[[Scores], None],
    keep: Distributions | None = None,
    against: Distributions | None = None,
) -> Scores:
    """Score all windows, one call each, so that generations go on between them; `report` is called after each.

    Cancelling the task stops the engine at once. Raises what the operation "loglikelihoods" raises.
    """
    scores = Scores()
    for index, window in enumerate(prepared.windows):
        files = {"keep": keep.file(index) if keep else "", "against": against.file(index) if against else ""}
        answer = await model.ask_async(ABILITY, tokens=list(window.tokens), first=window.first, **files)
        scores.add(Loglikelihoods.from_json(answer))
        report(scores)
        await asyncio.sleep(0)
    return scores
