"""Fetching WikiText-2: the archive is checked before its test part gets its name."""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path

import pytest

from modules.evaluation.errors import ResultsNotSaved
from modules.evaluation.wikitext import NAME, fetch_wikitext
from modules.hub.errors import DownloadError, FileNotOnHub, NotAHub
from modules.hub.mirrors import Mirrors
from modules.hub.repository import Repository
from tests.support.hub_server import HubServer

MEMBER = "wikitext-2-raw/wiki.test.raw"


def archive(member: str = MEMBER, content: bytes = b" = Robert Boulter = \n") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as packed:
        packed.writestr(member, content)
    return file.getvalue()


@pytest.fixture
def mirrors(served: HubServer) -> Mirrors:
    return Mirrors(served.url, lambda: "")


def publish(served: HubServer, mirrors: Mirrors, content: bytes) -> Repository:
    served.add("some/ci", {"w.zip": content}, lfs_above=1)
    return mirrors.repository(mirrors.parse_address("some/ci"))


def test_the_test_part_is_put_into_the_folder(served: HubServer, mirrors: Mirrors, tmp_path: Path) -> None:
    path = fetch_wikitext(mirrors, tmp_path / "datasets", publish(served, mirrors, archive()))
    assert path == tmp_path / "datasets" / NAME and path.read_text() == " = Robert Boulter = \n"
    assert [file.name for file in path.parent.iterdir()] == [NAME]


def test_an_archive_with_another_checksum_is_refused(served: HubServer, mirrors: Mirrors, tmp_path: Path) -> None:
    repository = publish(served, mirrors, archive())
    file = dataclasses.replace(repository.files[0], sha256="0" * 64)
    with pytest.raises(NotAHub, match="wrong checksum"):
        fetch_wikitext(mirrors, tmp_path, dataclasses.replace(repository, files=(file,)))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_archive_a_missing_file_and_a_full_disk_are_said(
    served: HubServer, mirrors: Mirrors, tmp_path: Path, subtests: pytest.Subtests
) -> None:
    for content in (b"no zip", archive("other.txt"), archive(content=b"x" * 1_290_591)):
        with subtests.test(size=len(content)), pytest.raises(NotAHub, match="archive is damaged"):
            fetch_wikitext(mirrors, tmp_path, publish(served, mirrors, content))
    with pytest.raises(FileNotOnHub):
        fetch_wikitext(mirrors, tmp_path, _without_file(publish(served, mirrors, archive())))
    with pytest.raises(ResultsNotSaved):
        (tmp_path / "file").touch()
        fetch_wikitext(mirrors, tmp_path / "file", publish(served, mirrors, archive()))


def _without_file(repository: Repository) -> Repository:
    file = dataclasses.replace(repository.files[0], path="gone.zip")
    return dataclasses.replace(repository, files=(file,))


def test_without_a_mirror_the_failure_is_a_download_error(tmp_path: Path) -> None:
    with pytest.raises(DownloadError):
        fetch_wikitext(Mirrors("http://127.0.0.1:9", lambda: ""), tmp_path)
