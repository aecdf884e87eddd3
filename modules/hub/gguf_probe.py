"""Read the header of a GGUF file on a hub without downloading the file, to judge beforehand whether it fits."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence

from modules.formats.gguf_header import GgufHeader, merge_parts, read_open_header
from modules.hub.errors import MirrorUnreachable, Stopped
from modules.hub.repository import FileSource, RemoteFile
from modules.system.format_errors import FormatError

FIRST_FETCH = 1 << 20
"""Bytes of the first request, enough for every part but the first; each further request doubles what is there."""
MAX_HEADER = 32 << 20
"""Bytes: twice what the largest vocabularies take."""
MAX_SECONDS = 30.0
"""Limit for all parts together: a slow mirror would otherwise occupy one of the few threads of the page for hours."""


def read_remote_header(source: FileSource, files: Sequence[RemoteFile], seconds: float = MAX_SECONDS) -> GgufHeader:
    """Read the header of the GGUF model whose parts are `files`, in order, as the catalog reads local ones.

    Raises DownloadError, also if it takes longer than `seconds`, which closes `source`. Raises ModelProblem if the
    bytes are not a valid header.
    """
    with _deadline(source, seconds):
        headers = [
            read_open_header(_RemotePrefix(source, file), file.size, file.path.rpartition("/")[2]) for file in files
        ]
    return merge_parts(headers, sum(file.size for file in files))


@contextlib.contextmanager
def _deadline(source: FileSource, seconds: float) -> Iterator[None]:
    """Close `source` after `seconds`; reads pending then raise MirrorUnreachable."""
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        source.close()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Stopped:
        if expired.is_set():
            why = {"en": f"timeout after {seconds:.0f} s", "zh": f"{seconds:.0f} 秒后超时"}
            raise MirrorUnreachable(source.host, why) from None
        raise
    finally:
        timer.cancel()


class _RemotePrefix:
    """File-like view of a remote file that fetches it from the start as far as it is read."""

    def __init__(self, source: FileSource, file: RemoteFile) -> None:
        self._source, self._file = source, file
        self._fetched = bytearray()
        self._position = 0

    def seek(self, position: int, /) -> None:
        self._position = position

    def read(self, count: int, /) -> bytes:
        needed = min(self._position + count, self._file.size)
        if needed > len(self._fetched):
            self._fetch(needed)
        data = bytes(self._fetched[self._position : self._position + count])
        self._position += len(data)
        return data

    def _fetch(self, needed: int) -> None:
        begin = len(self._fetched)
        end = min(max(needed, FIRST_FETCH, 2 * begin), self._file.size, MAX_HEADER)
        if needed > MAX_HEADER:
            raise FormatError(
                f"its header is longer than {MAX_HEADER >> 20} MiB, which no valid model needs.",
                f"文件头超过 {MAX_HEADER >> 20} MiB，正常的模型不会这么大。",
            )
        with contextlib.closing(self._source.open(self._file, begin, end)) as body:
            skip = begin - body.begin  # a mirror that ignores ranges sends the file from its start
            for chunk in body.chunks():
                self._fetched += chunk[skip:]
                skip = max(0, skip - len(chunk))
                if len(self._fetched) >= end:
                    return
