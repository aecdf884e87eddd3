"""File hashes agree with git and sha256sum."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from modules.downloads.checksum import CHUNK, expected_hash, hash_file, new_digest
from modules.hub.repository import RemoteFile
from tests.support.downloading import noise


@pytest.mark.parametrize("size", [0, 1, CHUNK, 2 * CHUNK + 5])
def test_hashes_agree_with_git_and_sha256sum(tmp_path: Path, size: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(noise(size))
    hashes = [
        subprocess.run([*command, path], capture_output=True, text=True, check=True).stdout.split()[0]
        for command in (["sha256sum"], ["git", "hash-object", "--no-filters"])
    ]
    large, small = RemoteFile("file", size, sha256=hashes[0]), RemoteFile("file", size, git_oid=hashes[1])
    with path.open("rb") as file:
        for file_entry in (large, small):
            assert hash_file(file.fileno(), new_digest(file_entry), lambda _: None) == expected_hash(file_entry)


def test_the_progress_callback_may_abort(tmp_path: Path) -> None:
    path, counts = tmp_path / "file", list[int]()
    path.write_bytes(noise(3 * CHUNK))

    def watch(count: int) -> None:
        counts.append(count)
        if count == 2 * CHUNK:
            raise KeyboardInterrupt

    descriptor = os.open(path, os.O_RDONLY)
    with pytest.raises(KeyboardInterrupt):
        hash_file(descriptor, new_digest(RemoteFile("file", 3 * CHUNK, "0" * 64)), watch)
    os.close(descriptor)
    assert counts == [CHUNK, 2 * CHUNK]
