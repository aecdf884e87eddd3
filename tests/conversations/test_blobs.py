"""Files are stored once by their hash, and go when nothing uses them."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from modules.conversations.blobs import MIN_AGE, UNSENT_SECONDS, BlobStore
from modules.conversations.errors import ConversationNotSaved

HASH = hashlib.sha256(b"content").hexdigest()


@pytest.fixture(params=["disk", "memory"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "attachments" if request.param == "disk" else None)


def test_a_blob_is_found_by_its_hash(blobs: BlobStore) -> None:
    assert HASH not in blobs
    assert blobs.put(b"content") == blobs.put(b"content") == HASH
    assert HASH in blobs and blobs.get(HASH) == b"content"


def test_other_names_are_no_blobs(blobs: BlobStore, subtests: pytest.Subtests) -> None:
    for name in ("", "0" * 64, "../x", HASH.upper(), f"{HASH}/"):
        with subtests.test(name), pytest.raises(KeyError):
            blobs.get(name)
        assert name not in blobs


def test_a_changed_file_is_no_blob_and_is_written_again(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    blobs.put(b"content")
    (tmp_path / HASH).write_bytes(b"cont")
    with pytest.raises(KeyError):
        blobs.get(HASH)
    blobs.put(b"content")
    assert blobs.get(HASH) == b"content"


def test_old_blobs_that_nothing_uses_are_deleted(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    used, unused, young = (blobs.put(content) for content in (b"used", b"unused", b"young"))
    (tmp_path / "note.txt").write_text("of the user")
    for sha256 in (used, unused):
        os.utime(tmp_path / sha256, (time.time() - MIN_AGE - 9,) * 2)
    assert blobs.forget_unused({used}) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([used, young, "note.txt"])
    assert unused not in blobs


def test_blobs_in_memory_go_at_once_but_those_about_to_be_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = BlobStore(None)
    used, unused = blobs.put(b"used"), blobs.put(b"unused")
    unsent = blobs.put(b"unsent", unsent=True)
    assert blobs.forget_unused({used}) == 1
    assert used in blobs and unsent in blobs and unused not in blobs
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + UNSENT_SECONDS + 9)
    assert blobs.forget_unused({used}) == 1 and unsent not in blobs


def test_using_a_blob_again_keeps_it(tmp_path: Path) -> None:
    blobs = BlobStore(tmp_path)
    blobs.put(b"content")
    os.utime(tmp_path / HASH, (0, 0))
    blobs.put(b"content")
    assert blobs.forget_unused(()) == 0


def test_a_disk_that_refuses_is_an_error_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConversationNotSaved):
        BlobStore(tmp_path / "file").put(b"content")
