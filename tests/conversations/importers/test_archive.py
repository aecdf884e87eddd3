"""Archives that strangers made."""

from __future__ import annotations

import io
import zipfile

import pytest

from modules.conversations.importers import archive as module
from modules.conversations.importers.archive import Archive, ArchiveProblem, is_archive
from tests.conversations.importers.samples import archive


def test_files_are_found_by_the_beginning_of_their_names() -> None:
    packed = Archive(archive({"a/file-1-x.png": b"1", "file-2.png": b"2", "b.json": b"{}"}))
    assert packed.find("file-1") == b"1"
    assert packed.find("file-3") is packed.find("") is packed.find("zzz") is None
    assert list(packed.names(".json")) == ["b.json"]


def test_bombs_are_refused_before_they_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_UNPACKED_BYTES", 1_000_000)
    with pytest.raises(ArchiveProblem, match="more than 1 MB"):
        Archive(archive({"a.json": bytes(600_000), "b.json": bytes(600_000)}))


def test_an_entry_that_is_larger_than_it_says_is_damaged() -> None:
    data = archive({"a.json": bytes(1_000_000)})
    size = (1_000_000).to_bytes(4, "little")
    assert data.count(size) == 2
    packed = Archive(data.replace(size, (10).to_bytes(4, "little")))
    content = packed.read("a.json")
    assert content is None or len(content) <= 10


def test_damaged_and_encrypted_archives_have_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert is_archive(b"PK\x03\x04")
    with pytest.raises(ArchiveProblem, match="damaged"):
        Archive(b"PK\x03\x04" + bytes(50))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as packed:
        packed.writestr("a.json", "{}")
    data = bytearray(buffer.getvalue())
    data[6] |= 1  # encrypted, in the local header and in the index
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert Archive(bytes(data)).read("a.json") is None
