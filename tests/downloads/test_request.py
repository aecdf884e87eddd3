"""From what is typed and ticked to a download: which files, what of them is here, and a sha256 known from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modules.downloads.manager import Downloads
from modules.downloads.request import Chosen, chosen, missing, pinned, there, ticked_at_first
from modules.hub import file_choices
from modules.hub.errors import (
    BadDigest,
    DigestAmbiguous,
    DigestDiffers,
    DigestUnlisted,
    DiskFull,
    DownloadError,
    FileNotOnHub,
    NothingToDownload,
)
from modules.hub.repo_id import Address
from modules.hub.repository import RemoteFile, Repository

OID, COMMIT = "0" * 40, "c" * 40
SHA = {"a": "a" * 64, "b": "b" * 64}


def large(path: str, sha: str = "a", size: int = 5) -> RemoteFile:
    return RemoteFile(path, size, sha256=SHA[sha])


def small(path: str, size: int = 3) -> RemoteFile:
    return RemoteFile(path, size, git_oid=OID)


def repository(*files: RemoteFile) -> Repository:
    return Repository("user/model", "main", COMMIT, files)


GGUF = repository(large("m.Q4_K_M.gguf"), large("sub/m.Q8_0.gguf", "b"), small("README.md"))
PLAIN = repository(large("model.safetensors"), small("config.json"), small("README.md"), small("code.py"))
LORA = repository(large("adapter_model.safetensors"), small("adapter_config.json"))
ADDRESS = Address("user/model")


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[Downloads]:
    made = Downloads({"model": tmp_path / "models", "lora": tmp_path / "loras"}, list)
    yield made
    made.close()


def paths(choice: Chosen) -> list[str]:
    return [file.path for file in choice.files]


def test_a_file_that_is_named_counts_more_than_what_is_ticked() -> None:
    assert paths(chosen(GGUF, ADDRESS, "m.Q8_0.gguf", ["m.Q4_K_M.gguf"])) == ["sub/m.Q8_0.gguf"]
    assert paths(chosen(GGUF, ADDRESS, "", ["m.Q4_K_M.gguf"])) == ["m.Q4_K_M.gguf"]


def test_without_a_list_the_link_s_file_is_taken_or_what_is_proposed() -> None:
    assert paths(chosen(PLAIN, replace(ADDRESS, file="config.json"))) == ["config.json"]
    assert paths(chosen(PLAIN, ADDRESS)) == ["model.safetensors", "config.json", "README.md"]
    with pytest.raises(NothingToDownload):
        chosen(GGUF, ADDRESS)
    with pytest.raises(NothingToDownload):
        chosen(PLAIN, ADDRESS, "", [])
    with pytest.raises(FileNotOnHub):
        chosen(PLAIN, ADDRESS, "other.safetensors")


def test_the_boxes_are_ticked_as_proposed_or_as_the_link_says() -> None:
    assert ticked_at_first(GGUF, ADDRESS) == frozenset()
    assert ticked_at_first(PLAIN, ADDRESS) == {"model.safetensors", "config.json", "README.md"}
    assert ticked_at_first(GGUF, replace(ADDRESS, file="sub/m.Q8_0.gguf")) == {"sub/m.Q8_0.gguf"}


@pytest.mark.parametrize(
    ("what", "here"),
    [
        (GGUF, {"models/m.Q4_K_M.gguf": 5, "models/m.Q8_0.gguf": 4}),
        (PLAIN, {"models/user_model/model.safetensors": 5, "models/user_model/config.json": 4}),
        (LORA, {"loras/user_model/adapter_model.safetensors": 5}),
    ],
)
def test_what_is_here_is_told_by_where_it_would_go_and_its_size(
    downloads: Downloads, tmp_path: Path, what: Repository, here: dict[str, int]
) -> None:
    assert there(downloads, what, file_choices.choices(what)) == frozenset()
    for path, size in here.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x" * size)
    first = what.files[0].path
    assert there(downloads, what, file_choices.choices(what)) == {first}
    assert missing(downloads, Chosen(what, what.files[:1])) == ()
    assert missing(downloads, chosen(what, ADDRESS, what.files[1].path)) == what.files[1:2]


def test_a_folder_of_a_file_s_name_is_not_that_file(downloads: Downloads, tmp_path: Path) -> None:
    (tmp_path / "models" / "m.Q4_K_M.gguf").mkdir(parents=True)
    assert there(downloads, GGUF, file_choices.choices(GGUF)) == frozenset()


def test_room_is_looked_for_where_the_files_go(downloads: Downloads) -> None:
    wanted = Chosen(LORA, LORA.files).wanted
    downloads.check_room(wanted, 0)
    with pytest.raises(DiskFull, match="loras"):
        downloads.check_room(wanted, 1 << 60)


def test_a_sha256_known_from_elsewhere_is_that_of_the_one_large_file() -> None:
    assert pinned(chosen(PLAIN, ADDRESS), "").revision == "main"
    wanted = pinned(chosen(PLAIN, ADDRESS), SHA["a"])
    assert wanted.revision == COMMIT, "no later commit may take its place"
    assert wanted.sha256 == SHA["a"], "the job asks for the list anew, and compares again"
    assert replace(wanted, revision="main", sha256="") == chosen(PLAIN, ADDRESS).wanted, (
        "and it goes where it would go anyway"
    )


@pytest.mark.parametrize(
    ("choice", "digest", "error"),
    [
        (chosen(PLAIN, ADDRESS), SHA["b"], DigestDiffers),
        (chosen(PLAIN, ADDRESS, "config.json"), SHA["a"], DigestUnlisted),
        (Chosen(GGUF, GGUF.files), SHA["a"], DigestAmbiguous),
        (chosen(PLAIN, ADDRESS), SHA["a"][1:], BadDigest),
        (chosen(PLAIN, ADDRESS), "g" * 64, BadDigest),
        (chosen(PLAIN, ADDRESS), SHA["a"] + "\n", BadDigest),
    ],
)
def test_any_other_sha256_is_refused(choice: Chosen, digest: str, error: type[DownloadError]) -> None:
    with pytest.raises(error) as refused:
        pinned(choice, digest)
    if error is DigestDiffers:
        assert SHA["a"] in refused.value.say("en") and SHA["b"] in refused.value.say("zh")
