"""Read the files of a zip archive that a stranger may have made."""

from __future__ import annotations

import bisect
import io
import lzma
import zipfile
import zlib
from collections.abc import Iterator

MAX_UNPACKED_BYTES = 200_000_000
MAX_ENTRIES = 20_000

_BAD_ARCHIVE = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError, NotImplementedError, RuntimeError, ValueError,
)  # fmt: skip
"""What zipfile raises for damaged, encrypted or unknown contents."""


class ArchiveProblem(Exception):
    """Why an archive cannot be read, as the end of a sentence."""

    def __init__(self, en: str, zh: str) -> None:
        super().__init__(en)
        self.words = {"en": en, "zh": zh}


def is_archive(data: bytes) -> bool:
    return data.startswith((b"PK\x03\x04", b"PK\x05\x06"))


class Archive:
    """The files of an archive. Its index is checked before anything is unpacked. Raises ArchiveProblem."""

    def __init__(self, data: bytes) -> None:
        try:
            self._zip = zipfile.ZipFile(io.BytesIO(data))
        except _BAD_ARCHIVE:
            raise ArchiveProblem("the zip archive is damaged", "zip 压缩包已损坏") from None
        entries = [entry for entry in self._zip.infolist() if not entry.is_dir()]
        if len(entries) > MAX_ENTRIES or sum(entry.file_size for entry in entries) > MAX_UNPACKED_BYTES:
            raise ArchiveProblem(
                f"unpacked, it has more than {MAX_UNPACKED_BYTES // 1_000_000} MB or {MAX_ENTRIES:,} files; "
                "import the files in it one by one",
                f"解压后超过 {MAX_UNPACKED_BYTES // 1_000_000} MB 或 {MAX_ENTRIES:,} 个文件，请逐个导入其中的文件",
            )
        self._entries = {entry.filename: entry for entry in entries}
        self._by_base_name = sorted((name.rpartition("/")[2], name) for name in self._entries)

    def names(self, *suffixes: str) -> Iterator[str]:
        """Iterate over the names of files that end so."""
        return (name for name in self._entries if name.lower().endswith(suffixes))

    def read(self, name: str) -> bytes | None:
        """Return the content of a file; None if it is damaged, encrypted, or packed in an unknown way."""
        try:
            with self._zip.open(self._entries[name]) as file:
                return file.read(MAX_UNPACKED_BYTES)
        except _BAD_ARCHIVE:
            return None

    def find(self, beginning: str) -> bytes | None:
        """Return the content of the first file whose name, without folders, begins so; None without one."""
        position = bisect.bisect_left(self._by_base_name, (beginning, ""))
        base_name, name = self._by_base_name[position] if position < len(self._by_base_name) else ("", "")
        return self.read(name) if beginning and base_name.startswith(beginning) else None
