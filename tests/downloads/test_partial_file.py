"""A partial file is resumed only if its record matches the listed file."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modules.downloads.context import MIB, TransferOptions
from modules.downloads.disk import disk_errors, replace_file, write_at
from modules.downloads.errors import DiskFull, DiskRefused
from modules.downloads.partial_file import DiskSync, PartialFile, Segment, allocated_bytes, recorded_bytes
from modules.hub.repository import RemoteFile

COMMIT = "c" * 40
FILE = RemoteFile("a/b.safetensors", 8 * MIB, sha256="5" * 64)
SPLIT = TransferOptions(split_from=4 * MIB, min_segment=2 * MIB)


def save_two_segments(path: Path, options: TransferOptions = SPLIT) -> None:
    """Create a partial file of four segments, two of which contain bytes."""
    part = PartialFile(path, COMMIT, FILE, options)
    part.segments[0].done, part.segments[2].done = 2 * MIB, MIB
    part.save()
    part.close()


def resumed_bytes(path: Path, commit: str = COMMIT, file: RemoteFile = FILE) -> int:
    part = PartialFile(path, commit, file, SPLIT)
    part.close()
    return part.done


def test_a_new_file_is_allocated_and_empty(tmp_path: Path) -> None:
    part = PartialFile(tmp_path / "0.part", COMMIT, FILE, SPLIT)
    part.close()
    assert part.done == 0 and not part.arrives_in_order and (tmp_path / "0.part").stat().st_size == FILE.size
    assert allocated_bytes(tmp_path / "0.part", FILE.size) == FILE.size and allocated_bytes(tmp_path / "1.part", 5) == 0


@pytest.mark.parametrize(("size", "count"), [(0, 1), (63 * MIB, 1), (64 * MIB, 4), (100 * MIB, 4), (1 << 33, 4)])
def test_the_number_of_segments_depends_on_the_size(tmp_path: Path, size: int, count: int) -> None:
    sparse = replace(FILE, size=size)
    part = PartialFile(tmp_path / "0.part", COMMIT, sparse, TransferOptions())
    part.delete()
    part.close()
    assert len(part.segments) == count
    assert [segment.begin for segment in part.segments[1:]] == [segment.end for segment in part.segments[:-1]]
    assert part.segments[-1].end == size and list(tmp_path.iterdir()) == []


def test_recorded_bytes_are_resumed(tmp_path: Path) -> None:
    save_two_segments(tmp_path / "0.part")
    assert resumed_bytes(tmp_path / "0.part") == 3 * MIB == recorded_bytes(tmp_path)


@pytest.mark.parametrize(
    ("commit", "changes"),
    [("d" * 40, {}), (COMMIT, {"path": "a/c"}), (COMMIT, {"size": 8 * MIB + 1}), (COMMIT, {"sha256": "6" * 64})],
    ids=["another commit", "another path", "another size", "another hash"],
)
def test_a_partial_file_of_another_file_is_not_resumed(tmp_path: Path, commit: str, changes: dict[str, Any]) -> None:
    save_two_segments(tmp_path / "0.part")
    assert resumed_bytes(tmp_path / "0.part", commit, replace(FILE, **changes)) == 0


IMPOSSIBLE: list[object] = [
    [[0, 4 * MIB, 0]],
    [[0, 8 * MIB, 9 * MIB]],
    [[0, 8 * MIB, -1]],
    [[0, 5 * MIB, 0], [4 * MIB, 8 * MIB, 0]],
    [[1, 8 * MIB, 5]],
    [],
    "x",
    [[0, 8 * MIB]],
]


def test_an_impossible_record_is_ignored(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, segments in enumerate(IMPOSSIBLE):
        with subtests.test(segments=segments):
            folder = tmp_path / str(number)
            folder.mkdir()
            save_two_segments(folder / "0.part")
            state = folder / "0.json"
            state.write_text(json.dumps(json.loads(state.read_text()) | {"segments": segments}))
            assert resumed_bytes(folder / "0.part") == 0


@pytest.mark.parametrize("text", ["", "[]", "{", "\0", "null"])
def test_a_damaged_record_is_ignored(tmp_path: Path, text: str) -> None:
    save_two_segments(tmp_path / "0.part")
    (tmp_path / "0.json").write_text(text)
    assert resumed_bytes(tmp_path / "0.part") == 0


def test_a_partial_file_with_a_hard_link_is_not_written_to(tmp_path: Path) -> None:
    save_two_segments(tmp_path / "0.part")
    os.link((tmp_path / "0.part"), tmp_path / "other")
    assert resumed_bytes(tmp_path / "0.part") == 0 and (tmp_path / "other").stat().st_nlink == 1


def test_merged_segments_keep_the_bytes_before_the_first_gap(tmp_path: Path) -> None:
    save_two_segments(tmp_path / "0.part")
    part = PartialFile(tmp_path / "0.part", COMMIT, FILE, SPLIT)
    part.segments[1].done = 5
    part.merge_segments()
    part.close()
    assert part.segments == [Segment(0, FILE.size, 2 * MIB + 5)]


def test_bytes_are_written_at_their_offset(tmp_path: Path) -> None:
    part = PartialFile(tmp_path / "0.part", COMMIT, FILE, SPLIT)
    write_at(part.descriptor, b"abc", 5)
    part.close()
    assert (tmp_path / "0.part").read_bytes()[:10] == b"\0" * 5 + b"abc" + b"\0" * 2


def test_a_file_is_replaced_atomically(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    replace_file(path, b"old")
    with path.open("rb") as old_file:
        replace_file(path, b"new")
        assert old_file.read() == b"old" and path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["state.json"]


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, DiskFull), (errno.EDQUOT, DiskFull), (errno.EROFS, DiskRefused)]
)
def test_disk_errors_are_translated(tmp_path: Path, number: int, kind: type[Exception]) -> None:
    with pytest.raises(kind) as caught, disk_errors(tmp_path / "not" / "there", 7):
        raise OSError(number, os.strerror(number))
    assert str(tmp_path) in str(caught.value)


def test_a_file_whose_record_cannot_be_written_takes_no_space(tmp_path: Path) -> None:
    (tmp_path / ".0.json.new").symlink_to("/dev/full")
    with pytest.raises(DiskFull):
        PartialFile(tmp_path / "0.part", COMMIT, FILE, SPLIT)
    assert not (tmp_path / "0.part").exists()


def test_a_file_system_that_cannot_allocate_gets_a_sparse_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    def fail(number: int) -> None:
        raise OSError(number, os.strerror(number))

    for number in (errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS):
        with subtests.test(number=number):
            monkeypatch.setattr(os, "posix_fallocate", lambda *_, number=number: fail(number))
            part = PartialFile(tmp_path / "0.part", COMMIT, FILE, SPLIT)
            part.close()
            assert (part.path.stat().st_size, allocated_bytes(part.path, FILE.size)) == (FILE.size, 0)
            part.delete()
    monkeypatch.setattr(os, "posix_fallocate", lambda *_: fail(errno.EDQUOT))
    with pytest.raises(DiskFull):
        PartialFile(tmp_path / "0.part", COMMIT, FILE, SPLIT)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_while_it_is_flushed_is_an_error(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    sync = DiskSync(writer, tmp_path)  # a pipe cannot be flushed to a disk
    with pytest.raises(DiskRefused, match="Invalid argument"):
        sync.finished(2)
    os.close(writer)
    assert os.read(reader, 1) == b"", "the copy of the descriptor is closed"
    os.close(reader)
