"""Samples: the texts of a training run with the parts that are trained, as the parent writes and a worker reads them.

Standard library alone: the main process imports it too. A file has one JSON object a line.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

Segments = tuple[tuple[str, bool], ...]
"""Consecutive parts of a text, each with whether it is trained."""


@dataclass(frozen=True)
class Sample:
    """The text of one row, `row` being its number in the file, from 1.

    `eos` adds the EOS token, unless the text ends with it. A `raw` text of any length is cut into windows; others are
    dropped or truncated if they are too long.
    """

    row: int
    segments: Segments
    eos: bool = False
    raw: bool = False

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.segments)

    def to_line(self) -> bytes:
        """Return the sample as a line of its file."""
        body = {"row": self.row, "segments": self.segments, "eos": self.eos, "raw": self.raw}
        return json.dumps(body, ensure_ascii=False).encode() + b"\n"

    @staticmethod
    def from_line(line: bytes) -> Sample:
        body = json.loads(line)
        segments = tuple((text, trained) for text, trained in body["segments"])
        return Sample(body["row"], segments, body["eos"], body["raw"])


def joined(segments: Iterable[tuple[str, bool]]) -> Segments:
    """Return the segments without empty ones, neighbors of one kind being merged."""
    merged: list[tuple[str, bool]] = []
    for text, trained in segments:
        if text and merged and merged[-1][1] == trained:
            merged[-1] = (merged[-1][0] + text, trained)
        elif text:
            merged.append((text, trained))
    return tuple(merged)


def samples_hash(samples: Iterable[Sample]) -> str:
    """Return the SHA-256 of the file of these samples, in hexadecimal."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(sample.to_line())
    return digest.hexdigest()


def read_samples(path: Path) -> Iterator[Sample]:
    """Yield the samples of a file that this program has written."""
    with path.open("rb") as file:
        for line in file:
            yield Sample.from_line(line)
