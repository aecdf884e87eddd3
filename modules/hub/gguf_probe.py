"""The header of a GGUF file on a hub, of which no more than that is fetched: whether the model would fit is known
before it is downloaded."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from modules.formats.gguf_header import GgufHeader, joined, read_header_of
from modules.hub.errors import MirrorUnreachable, Stopped
from modules.hub.repository import RemoteFile, Source
from modules.system.bounded_reader import Flaw

FIRST = 1 << 20
"""Bytes fetched at first: enough for any part but the first. Then twice as many, and so on."""
MOST = 32 << 20
"""Bytes: twice what the largest vocabularies take."""
MOST_SECONDS = 30.0
"""For all parts together: a mirror that trickles would keep for hours one of the few threads that pages share."""


def read_remote_header(source: Source, files: Sequence[RemoteFile], seconds: float = MOST_SECONDS) -> GgufHeader:
    """What the GGUF model says of itself whose parts are `files`, in order; as the catalogue has it of one on disk.

    DownloadError, also if that takes longer than `seconds`, after which `source` is closed; ModelProblem whatever else
    the bytes are.
    """
    with _deadline(source, seconds):
        headers = [read_header_of(_Beginning(source, file), file.size, file.path.rpartition("/")[2]) for file in files]
    return joined(headers, sum(file.size for file in files))


@contextlib.contextmanager
def _deadline(source: Source, seconds: float) -> Iterator[None]:
    """MirrorUnreachable for what waits for `source` after so long."""
    over = threading.Event()

    def end() -> None:
        over.set()
        source.close()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Stopped:
        if over.is_set():
            raise MirrorUnreachable(source.host, f"timeout: {seconds:.0f} s") from None
        raise
    finally:
        timer.cancel()


class _Beginning:
    """A remote file as far as it has been asked for, which is from its start on."""

    def __init__(self, source: Source, file: RemoteFile) -> None:
        self._source, self._file = source, file
        self._known = bytearray()
        self._place = 0

    def seek(self, place: int, /) -> None:
        self._place = place

    def read(self, count: int, /) -> bytes:
        needed = min(self._place + count, self._file.size)
        if needed > len(self._known):
            self._fetch(needed)
        piece = bytes(self._known[self._place : self._place + count])
        self._place += len(piece)
        return piece

    def _fetch(self, needed: int) -> None:
        known = len(self._known)
        end = min(max(needed, FIRST, 2 * known), self._file.size, MOST)
        if needed > MOST:
            raise Flaw(
                f"its header is longer than {MOST >> 20} MiB, which no model's is.",
                f"文件头超过 {MOST >> 20} MiB，正常的模型不会这样。",
            )
        with contextlib.closing(self._source.open(self._file, known, end)) as body:
            passed = known - body.begin  # a mirror without ranges begins at the start
            for chunk in body.chunks():
                self._known += chunk[passed:]
                passed = max(0, passed - len(chunk))
                if len(self._known) >= end:
                    return
