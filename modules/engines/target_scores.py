"""Scores of the targets of a window by a model's logits, and comparisons with those that another model has stored."""

from __future__ import annotations

import contextlib
import hashlib
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from modules.core.errors import Words
from modules.core.events import Json
from modules.core.worker_errors import GenerationFailed, ReferenceNotStored, ReferenceUnusable
from modules.engines.loglikelihoods import Loglikelihoods, Window

BLOCK_BYTES = 1 << 20
"""Logits that are worked on at once. They stay in the cache of a processor."""
NOT_FINITE = "the model produces NaN: its files are damaged, or config.json does not match the weights"

_HEADER = struct.Struct("<8sii32s")
_MAGIC = b"TXLOGP1\n"
"""A file of log-probabilities begins with this, the numbers of targets and of tokens in the vocabulary, and the SHA-256
of the window; float32 rows [targets, vocabulary] follow, little-endian."""

Rows = NDArray[np.float32]


class TargetScores:
    """Scores the targets of `window`, whose logits come in any number of pieces.

    `keep` stores the log-probabilities of all tokens at every target in that file, `against` compares with such a file.
    Both cover the first `vocabulary` tokens, because the logits may have padding beyond them. `loader` is named in
    errors. Raises ReferenceUnusable for a file of another window or vocabulary.
    """

    def __init__(self, loader: str, window: Window, vocabulary: int, keep: str = "", against: str = "") -> None:
        self._loader, self.window, self._vocabulary = loader, window, vocabulary
        self._logprobs: list[NDArray[np.float64]] = []
        self._kl: list[NDArray[np.float64]] = []
        self._same_top: list[NDArray[np.bool_]] = []
        header = _HEADER.pack(_MAGIC, len(window.targets), vocabulary, _window_hash(window))
        with contextlib.ExitStack() as files:
            self._reference = files.enter_context(_open_reference(Path(against), header)) if against else None
            self._kept = files.enter_context(_NewFile(Path(keep), header)) if keep else None
            self._files = files.pop_all()

    def __enter__(self) -> TargetScores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.__exit__(kind, error, trace)

    @property
    def needs_rows(self) -> bool:
        """Whether it needs the logits of all tokens, not only the targets' log-probabilities."""
        return self._reference is not None or self._kept is not None

    def next_targets(self, count: int) -> list[int]:
        """Return the next `count` targets to score."""
        begin = self.window.first + self.window.scored
        return self.window.tokens[begin : begin + count]

    def add_logits(self, logits: Rows) -> None:
        """Score the next targets by `logits`, float32 [targets, vocabulary and padding].

        Raises GenerationFailed for logits that are not finite.
        """
        block = max(BLOCK_BYTES // logits[0].nbytes, 1)
        for begin in range(0, len(logits), block):
            rows = logits[begin : begin + block]
            values = rows[np.arange(len(rows)), self.next_targets(len(rows))].astype(np.float64)
            if self.needs_rows:
                self._add_rows(log_softmax(rows[:, : self._vocabulary]))
            self.add_logprobs(values - _log_totals(rows))

    def add_logprobs(self, logprobs: NDArray[np.float64]) -> None:
        """Record the log-probabilities of the next targets. Raises GenerationFailed for NaN."""
        if np.isnan(logprobs).any():
            raise GenerationFailed(self._loader, NOT_FINITE)
        self._logprobs.append(logprobs)
        self.window.scored += len(logprobs)

    def _add_rows(self, logprobs: Rows) -> None:
        """Store or compare the log-probabilities [targets, vocabulary] of all tokens at the next targets."""
        if self._reference is not None:
            kept = np.frombuffer(self._reference.read(logprobs.nbytes), "<f4").reshape(logprobs.shape)
            self._kl.append(divergence(kept, logprobs))
            self._same_top.append(kept.argmax(axis=1) == logprobs.argmax(axis=1))
        if self._kept is not None:
            self._kept.write(logprobs.astype("<f4", copy=False).tobytes())

    def result(self) -> Json:
        """Return what the operation answers, once the window is complete."""
        kl = np.concatenate(self._kl).tolist() if self._kl else []
        same_top = np.concatenate(self._same_top).tolist() if self._same_top else []
        return Loglikelihoods(np.concatenate(self._logprobs).tolist(), kl, same_top).to_json()


def log_softmax(logits: Rows) -> Rows:
    """Return log-probabilities of rows of logits, float32; the sums are in float64."""
    result: Rows = (logits - _log_totals(logits)[:, None]).astype(np.float32)
    return result


def _log_totals(logits: Rows) -> NDArray[np.float64]:
    """Return the logarithm of the sum of exponentials of every row. NaN for a row that is not finite."""
    peaks = logits.max(axis=1)
    with np.errstate(invalid="ignore"):
        totals: NDArray[np.float64] = np.exp(logits - peaks[:, None]).sum(axis=1, dtype=np.float64)
    result: NDArray[np.float64] = np.log(totals) + peaks
    return result


def divergence(kept: Rows, logprobs: Rows) -> NDArray[np.float64]:
    """Return KL(kept ‖ this model) of every row in nats. Both are log-probabilities [targets, vocabulary]."""
    with np.errstate(invalid="ignore"):
        terms = np.exp(kept) * (kept - logprobs)
    terms[kept == -np.inf] = 0  # a token that is impossible adds nothing, and 0 × inf is NaN
    total: NDArray[np.float64] = terms.sum(axis=1, dtype=np.float64)
    return total


# -- files -------------------------------------------------------------------------------------------------------------


def _window_hash(window: Window) -> bytes:
    return hashlib.sha256(struct.pack(f"<{len(window.tokens) + 1}i", window.first, *window.tokens)).digest()


class _NewFile:
    """A file under a temporary name, which gets its own name when the block ends without an error.

    Raises ReferenceNotStored if it cannot be written.
    """

    def __init__(self, path: Path, header: bytes) -> None:
        self._path, self._header = path, header
        self._part = path.with_name(f".{path.name}.{os.getpid()}.part")

    def __enter__(self) -> _NewFile:
        with self._naming_file():
            self._file = self._part.open("wb")
            self._file.write(self._header)
        return self

    def write(self, content: bytes) -> None:
        with self._naming_file():
            self._file.write(content)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            with self._naming_file():
                self._file.close()
                if kind is None:
                    os.replace(self._part, self._path)
        finally:
            self._part.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _naming_file(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ReferenceNotStored(self._path.name, error.strerror or str(error)) from error


def _open_reference(path: Path, expected: bytes) -> BinaryIO:
    """Open a file of log-probabilities, to be read behind its header. Raises ReferenceUnusable for another header."""
    try:
        file = path.open("rb")
    except OSError as error:
        raise ReferenceUnusable(
            path.name, {"en": f"it cannot be read ({error.strerror}).", "zh": f"文件无法读取（{error.strerror}）。"}
        ) from error
    if why := _mismatch(file.read(len(expected)), expected, os.fstat(file.fileno()).st_size):
        file.close()
        raise ReferenceUnusable(path.name, why)
    return file


def _mismatch(header: bytes, expected: bytes, size: int) -> Words | None:
    """Return why a file with this header and of `size` bytes cannot be compared with, None if it can."""
    damaged = {"en": "the file is damaged. Evaluate the first model again.", "zh": "文件已损坏，请重新评估第一个模型。"}
    if len(header) < _HEADER.size or not header.startswith(_MAGIC):
        return damaged
    _, targets, vocabulary, window = _HEADER.unpack(header)
    _, _, ours, our_window = _HEADER.unpack(expected)
    if vocabulary != ours:
        return {
            "en": f"its vocabulary has {vocabulary} tokens, this model's {ours}. "
            "Only models with the same tokenizer can be compared.",
            "zh": f"其词表有 {vocabulary} 个词符，而此模型有 {ours} 个。只能比较使用相同词符化器的模型。",
        }
    if window != our_window:
        return {
            "en": "they are for other tokens. Evaluate the first model on the same text again.",
            "zh": "它们属于另一段词符，请在同一文本上重新评估第一个模型。",
        }
    return None if size == _HEADER.size + 4 * targets * vocabulary else damaged
