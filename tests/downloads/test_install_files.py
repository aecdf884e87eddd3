"""A new folder is created in one step, an existing one is filled file by file, and no link is followed."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modules.downloads.errors import DiskRefused
from modules.downloads.install_files import METADATA, InstallTarget, metadata_text
from modules.hub.errors import LinkInTheWay
from modules.hub.repository import RemoteFile, Repository

DATA = b"some bytes"
FILE = RemoteFile("sub/a.bin", len(DATA), sha256=hashlib.sha256(DATA).hexdigest())


@pytest.fixture
def target(tmp_path: Path) -> InstallTarget:
    install_target = InstallTarget(tmp_path / "models", "user_model", "job")
    install_target.staging.mkdir(parents=True)
    return install_target


def staged(target: InstallTarget, data: bytes = DATA) -> dict[str, Path]:
    part = target.part_path(0)
    part.write_bytes(data)
    return {FILE.path: part}


def ignore_progress(_: int) -> None:
    """A progress callback that never aborts."""


def test_a_new_folder_contains_all_files_and_the_metadata(target: InstallTarget) -> None:
    target.install(staged(target), "note")
    assert (target.final / FILE.path).read_bytes() == DATA
    assert (target.final / METADATA).read_text() == "note" and target.has(FILE, ignore_progress)


def test_an_existing_folder_keeps_its_other_files(target: InstallTarget) -> None:
    (target.final / "sub").mkdir(parents=True)
    (target.final / "sub" / "a.bin").write_bytes(b"old")
    (target.final / "mine").write_bytes(b"mine")
    assert not target.has(FILE, ignore_progress)
    target.install(staged(target), "note")
    assert (target.final / FILE.path).read_bytes() == DATA and (target.final / "mine").read_bytes() == b"mine"


def test_without_a_target_a_file_goes_to_the_root_without_metadata(tmp_path: Path) -> None:
    target = InstallTarget(tmp_path / "models", "", "job", flat=True)
    target.staging.mkdir(parents=True)
    target.install(staged(target), "note")
    assert sorted(path.name for path in target.root.iterdir()) == [".downloads", "a.bin"]
    assert target.has(FILE, ignore_progress)


def test_a_link_to_a_file_is_replaced_and_its_target_unchanged(target: InstallTarget, tmp_path: Path) -> None:
    link_target = tmp_path / "link target"
    link_target.write_bytes(b"mine")
    (target.final / "sub").mkdir(parents=True)
    (target.final / FILE.path).symlink_to(link_target)
    target.install(staged(target), "note")
    assert link_target.read_bytes() == b"mine" and (target.final / FILE.path).read_bytes() == DATA


def test_a_link_to_a_folder_is_refused(target: InstallTarget, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    target.final.mkdir()
    (target.final / "sub").symlink_to(tmp_path / "outside")
    with pytest.raises(LinkInTheWay):
        target.has(FILE, ignore_progress)
    with pytest.raises(LinkInTheWay):
        target.install(staged(target), "note")
    assert list((tmp_path / "outside").iterdir()) == []


def test_a_folder_in_place_of_the_file_is_reported(target: InstallTarget) -> None:
    (target.final / FILE.path / "more").mkdir(parents=True)
    assert not target.has(FILE, ignore_progress)
    with pytest.raises(DiskRefused):
        target.install(staged(target), "note")


def test_an_interrupted_installation_is_completed(target: InstallTarget) -> None:
    tree = target.staging / "tree" / "sub"
    tree.mkdir(parents=True)
    (tree / "a.bin").write_bytes(DATA)
    assert target.has(FILE, ignore_progress)
    target.final.mkdir()
    target.install({}, "note")
    assert target.has(FILE, ignore_progress) and (target.final / FILE.path).read_bytes() == DATA


def test_clearing_the_staging_folder_leaves_only_the_lock(target: InstallTarget, tmp_path: Path) -> None:
    staged(target)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "mine").write_bytes(b"")
    (target.staging / "link").symlink_to(tmp_path / "outside")
    (target.staging / "tree").mkdir()
    (target.staging / "lock").write_bytes(b"")
    target.clear_staging()
    assert [path.name for path in target.staging.iterdir()] == ["lock"]
    assert (tmp_path / "outside" / "mine").exists()


def test_the_metadata_has_the_format_of_the_original() -> None:
    small = RemoteFile("b.json", 3, git_oid="1" * 40)
    text = metadata_text(Repository("user/model", "main", "c" * 40, (FILE, small)), "hf-mirror.com", [FILE, small])
    lines = text.splitlines()
    assert lines[:2] == ["url: https://huggingface.co/user/model", "branch: main"]
    assert lines[3:] == [f"commit: {'c' * 40}", "endpoint: hf-mirror.com", "sha256sum:", f"    {FILE.sha256} sub/a.bin"]
    assert "sha256sum" not in metadata_text(Repository("user/model", "main", "c" * 40, ()), "hf-mirror.com", [small])
