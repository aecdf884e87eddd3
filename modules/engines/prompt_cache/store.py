"""The saved prompts of one loaded model, as its engine reads and writes them.

Only the tokens of all files are in memory. A file is written in small pieces while nothing is asked of the engine, and
is not forced to the disk: one that a power failure cut off has the wrong length or checksum, and is deleted.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import time
import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from modules.core.events import Json
from modules.engines.prompt_cache.folder import SUFFIX, TEMPORARY, PromptFolder, PromptKey, short_hash
from modules.engines.prompt_cache.prompt_file import (
    PIECE_BYTES,
    DamagedFile,
    Header,
    StateReader,
    encode_checksum,
    encode_header,
    read_header,
)
from modules.engines.token_ids import common_prefix_length

MIN_TOKENS = 256
"""Length from which on a prompt is saved."""
MIN_NEW_TOKENS = 256
"""Tokens that must be in no file for a prompt to be saved while its model stays loaded.

All of it is written anew each time: that many tokens of a model of eight billion weights take 32 MB.
"""
MIN_NEW_TOKENS_AT_END = 64
MIN_GAIN = 64
"""Tokens that must be had from a file beyond those in memory for it to be read."""
MAX_SURPLUS = 8
"""A file is not read for less than one in so many of its tokens."""
_SUPERSEDED_TOKENS = 64
"""A file goes when one is written that has all but fewer of its tokens, if those can be had from that."""
T = TypeVar("T")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class StoredPrompt:
    """A saved prompt, of whose file only the header and the tokens have been read."""

    path: Path
    header: Header
    tokens: array[int]

    def is_beginning_of(self, tokens: array[int]) -> bool:
        return tokens[: len(self.tokens)] == self.tokens


class PromptStore:
    """The saved prompts in `folder` of the model with the name `model`, for a key. One thread at a time.

    What fails on the disk is logged, and then nothing is read or written.
    """

    def __init__(self, folder: PromptFolder, model: str, key: PromptKey) -> None:
        self._folder, self._model, self._key = folder, model, key
        self._rate = float("inf")  # bytes that the last file took a second
        self.prompts: list[StoredPrompt] = []
        with _logging_failure():
            folder.path.mkdir(parents=True, exist_ok=True)
            folder.path.chmod(0o700)
        folder.sweep()
        self._read_index()

    def use_key(self, key: PromptKey) -> None:
        """From now on use the prompts saved for that key."""
        if key != self._key:
            self._key = key
            self._read_index()

    def _read_index(self) -> None:
        self.prompts = []
        for file in self._folder.files():
            if not file.path.name.startswith(f"{self._key.fingerprint}-"):
                continue
            with _logging_failure():
                try:
                    with file.path.open("rb") as stream:
                        header, tokens = read_header(stream, file.size)
                    if header.fingerprint != self._key.fingerprint:
                        raise DamagedFile
                    self.prompts.append(StoredPrompt(file.path, header, tokens))
                except DamagedFile:
                    file.path.unlink(missing_ok=True)

    # -- reading --------------------------------------------------------------------------------------------------

    def find(self, tokens: array[int], held: int, can_truncate: bool = True) -> StoredPrompt | None:
        """Return the saved prompt with the most of `tokens` at its beginning, if it is worth reading.

        That is if `held` of them are in memory, and if a prompt can only be used as a whole unless `can_truncate`. The
        last one of `tokens` will be evaluated in any case.
        """
        best, longest = None, held + MIN_GAIN - 1
        beginning = tokens[:MIN_GAIN]
        for prompt in self.prompts:
            if prompt.tokens[:MIN_GAIN] != beginning:  # which is quicker than to count
                continue
            length = min(common_prefix_length(prompt.tokens, tokens), len(tokens) - 1)
            usable = length * MAX_SURPLUS >= len(prompt.tokens) if can_truncate else length == len(prompt.tokens)
            if usable and length > longest:
                best, longest = prompt, length
        return best

    @contextlib.contextmanager
    def reading(self, prompt: StoredPrompt) -> Iterator[StateReader]:
        """Open the file of a saved prompt, whose state must then be read, and check it at the end.

        Raises DamagedFile for one that is damaged or gone, after which it is forgotten.
        """
        try:
            with prompt.path.open("rb", buffering=0) as file:
                reader = StateReader(file, os.fstat(file.fileno()).st_size)
                if reader.header != prompt.header or reader.tokens != prompt.tokens:
                    raise DamagedFile
                yield reader
                reader.finish()
            os.utime(prompt.path)
        except (OSError, DamagedFile) as error:
            self._forget(prompt)
            raise DamagedFile from error

    def _forget(self, prompt: StoredPrompt) -> None:
        self.prompts = [other for other in self.prompts if other is not prompt]
        with _logging_failure():
            prompt.path.unlink(missing_ok=True)

    # -- writing --------------------------------------------------------------------------------------------------

    def is_worth_writing(
        self, tokens: array[int], size: int, at_end: bool, seconds: float = float("inf"), can_truncate: bool = True
    ) -> bool:
        """Tell whether a prompt with a state of `size` bytes should be saved, and probably can be in that time.

        Unless `can_truncate`, only the saved prompts that it continues have a part of it.
        """
        if len(tokens) < MIN_TOKENS or size / self._rate > seconds:
            return False
        usable = self.prompts if can_truncate else [prompt for prompt in self.prompts if prompt.is_beginning_of(tokens)]
        stored = max((common_prefix_length(prompt.tokens, tokens) for prompt in usable), default=0)
        if len(tokens) - stored < (MIN_NEW_TOKENS_AT_END if at_end else MIN_NEW_TOKENS):
            return False
        with _logging_failure():
            return size <= self._folder.limit()
        return False

    def drop_missing(self) -> None:
        """Forget the prompts whose files have been deleted."""
        self.prompts = [prompt for prompt in self.prompts if prompt.path.exists()]

    def write(
        self,
        tokens: array[int],
        layout: Json,
        size: int,
        state: Iterable[memoryview],
        rank: int = 0,
        can_truncate: bool = True,
    ) -> Iterator[None]:
        """Save a prompt, one small piece at each step; closing the iterator gives it up.

        `state` yields `size` bytes. Of two files written one after the other, that with the smaller `rank` counts as
        used later. Whether a longer prompt replaces a shorter one depends on whether the model `can_truncate`.
        """
        header = Header(self._model, self._key.fingerprint, len(tokens), size, layout)
        path = self._folder.path / f"{self._key.fingerprint}-{short_hash(tokens.tobytes())}{SUFFIX}"
        with _logging_failure():
            descriptor, name = tempfile.mkstemp(prefix=TEMPORARY, dir=self._folder.path)
            try:
                began, pauses = time.perf_counter(), 0.0
                with open(descriptor, "wb") as file:
                    start = encode_header(header, tokens)
                    file.write(start)
                    checksum = zlib.crc32(start)
                    for piece in _small_pieces(state):
                        file.write(piece)
                        checksum = zlib.crc32(piece, checksum)
                        paused = time.perf_counter()
                        yield
                        pauses += time.perf_counter() - paused
                    file.write(encode_checksum(checksum))
                used = time.time() - rank
                os.utime(name, (used, used))
                os.replace(name, path)
            finally:
                Path(name).unlink(missing_ok=True)
            self._rate = max(size, 1) / max(time.perf_counter() - began - pauses, 1e-3)
            self._supersede(StoredPrompt(path, header, tokens[:]), can_truncate)
            self._folder.trim()

    def _supersede(self, new: StoredPrompt, can_truncate: bool) -> None:
        """Take a new file among the prompts, and delete those that it makes useless.

        Unless `can_truncate`, the longest prompt that the new one continues stays, for another answer after it.
        """
        others = [prompt for prompt in self.prompts if prompt.path != new.path]
        if can_truncate:
            useless = [
                old
                for old in others
                if len(old.tokens) - common_prefix_length(old.tokens, new.tokens) < _SUPERSEDED_TOKENS
            ]
        else:
            beginnings = [old for old in others if old.is_beginning_of(new.tokens)]
            useless = sorted(beginnings, key=lambda old: len(old.tokens))[:-1]
        for old in useless:
            old.path.unlink(missing_ok=True)
        self.prompts = [new, *(old for old in others if old not in useless)]


def _small_pieces(state: Iterable[memoryview]) -> Iterator[memoryview]:
    for part in state:
        for begin in range(0, len(part), PIECE_BYTES):
            yield part[begin : begin + PIECE_BYTES]


@contextlib.contextmanager
def _logging_failure() -> Iterator[None]:
    """Log an OSError: what cannot be saved is evaluated again."""
    try:
        yield
    except OSError as error:
        log.warning("saved prompts: %s", error)
