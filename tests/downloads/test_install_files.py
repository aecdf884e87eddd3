"""A new folder appears at once, an old one is filled file by file, and nothing goes through a link."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modules.downloads.install_files import METADATA, Place, metadata
from modules.hub.errors import DiskRefused, LinkInTheWay
from modules.hub.repository import RemoteFile, Repository

DATA = b"some bytes"
FILE = RemoteFile("sub/a.bin", len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path / "models", "user_model", "job")
    made.staging.mkdir(parents=True)
    return made


def staged(place: Place, data: bytes = DATA) -> dict[str, Path]:
    part = place.part(0)
    part.write_bytes(data)
    return {FILE.path: part}


def watch(_: int) -> None:
    """Nobody wants it to end."""


def test_a_new_folder_holds_everything_and_the_note(place: Place) -> None:
    place.publish(staged(place), "note")
    assert (place.final / FILE.path).read_bytes() == DATA
    assert (place.final / METADATA).read_text() == "note" and place.has(FILE, watch)


def test_a_folder_that_exists_keeps_what_else_is_in_it(place: Place) -> None:
    (place.final / "sub").mkdir(parents=True)
    (place.final / "sub" / "a.bin").write_bytes(b"old")
    (place.final / "mine").write_bytes(b"mine")
    assert not place.has(FILE, watch)
    place.publish(staged(place), "note")
    assert (place.final / FILE.path).read_bytes() == DATA and (place.final / "mine").read_bytes() == b"mine"


def test_without_a_target_a_file_goes_to_the_root_without_a_note(tmp_path: Path) -> None:
    place = Place(tmp_path / "models", "", "job", flat=True)
    place.staging.mkdir(parents=True)
    place.publish(staged(place), "note")
    assert sorted(each.name for each in place.root.iterdir()) == [".downloads", "a.bin"]
    assert place.has(FILE, watch)


def test_a_link_to_a_file_is_replaced_and_its_target_left_alone(place: Place, tmp_path: Path) -> None:
    treasure = tmp_path / "treasure"
    treasure.write_bytes(b"mine")
    (place.final / "sub").mkdir(parents=True)
    (place.final / FILE.path).symlink_to(treasure)
    place.publish(staged(place), "note")
    assert treasure.read_bytes() == b"mine" and (place.final / FILE.path).read_bytes() == DATA


def test_a_link_to_a_folder_stops_it(place: Place, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    place.final.mkdir()
    (place.final / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(LinkInTheWay):
        place.has(FILE, watch)
    with pytest.raises(LinkInTheWay):
        place.publish(staged(place), "note")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_folder_where_the_file_belongs_is_told(place: Place) -> None:
    (place.final / FILE.path / "more").mkdir(parents=True)
    assert not place.has(FILE, watch)
    with pytest.raises(DiskRefused):
        place.publish(staged(place), "note")


def test_what_a_broken_publication_left_is_used(place: Place) -> None:
    tree = place.staging / "tree" / "sub"
    tree.mkdir(parents=True)
    (tree / "a.bin").write_bytes(DATA)
    assert place.has(FILE, watch)
    place.final.mkdir()
    place.publish({}, "note")
    assert place.has(FILE, watch) and (place.final / FILE.path).read_bytes() == DATA


def test_clearing_leaves_the_lock_and_nothing_else(place: Place, tmp_path: Path) -> None:
    staged(place)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_bytes(b"")
    (place.staging / "link").symlink_to(tmp_path / "outside")
    (place.staging / "tree").mkdir()
    (place.staging / "lock").write_bytes(b"")
    place.clear()
    assert [each.name for each in place.staging.iterdir()] == ["lock"]
    assert (tmp_path / "outside" / "mine").exists()


def test_the_note_has_the_form_of_upstream() -> None:
    small = RemoteFile("b.json", 3, git_oid="1" * 40)
    lines = metadata(Repository("user/model", "main", "c" * 40, (FILE, small)), "hf-mirror.com", [FILE, small])
    told = lines.splitlines()
    assert told[:2] == ["url: https://huggingface.co/user/model", "branch: main"]
    assert told[3:] == [f"commit: {'c' * 40}", "endpoint: hf-mirror.com", "sha256sum:", f"    {FILE.sha256} sub/a.bin"]
    assert "sha256sum" not in metadata(Repository("user/model", "main", "c" * 40, ()), "hf-mirror.com", [small])
