"""A user's request becomes a download: file selection, files already present, and a known SHA-256."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from modules.core.errors import OptionError, Unsupported
from modules.downloads.errors import BadDigest, DigestAmbiguous, DigestDiffers, DigestUnlisted, DiskFull
from modules.downloads.manager import DownloadManager
from modules.downloads.request import (
    FileCriteria,
    Selection,
    missing_files,
    pin_checksum,
    preselected_choices,
    present_choices,
    select_files,
)
from modules.hub import file_choices
from modules.hub.errors import DownloadError, FileNotOnHub, NothingToDownload
from modules.hub.repo_id import RepoAddress
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
ADDRESS = RepoAddress("user/model")


@pytest.fixture
def downloads(tmp_path: Path) -> Iterator[DownloadManager]:
    manager = DownloadManager({"model": tmp_path / "models", "lora": tmp_path / "loras"}, list)
    yield manager
    manager.close()


def select(
    repository: Repository, address: RepoAddress = ADDRESS, file: str = "", choices: list[str] | None = None
) -> Selection:
    criteria = FileCriteria(files=(file,) if file else (), choices=choices)
    return select_files(repository, address, criteria)


def paths(choice: Selection) -> list[str]:
    return [file.path for file in choice.files]


def test_a_named_file_overrides_the_choices() -> None:
    assert paths(select(GGUF, ADDRESS, "m.Q8_0.gguf", ["m.Q4_K_M.gguf"])) == ["sub/m.Q8_0.gguf"]
    assert paths(select(GGUF, ADDRESS, "", ["m.Q4_K_M.gguf"])) == ["m.Q4_K_M.gguf"]


def test_without_choices_the_file_of_the_link_or_the_preselection_is_selected() -> None:
    assert paths(select(PLAIN, replace(ADDRESS, file="config.json"))) == ["config.json"]
    assert paths(select(PLAIN, ADDRESS)) == ["model.safetensors", "config.json", "README.md"]
    with pytest.raises(NothingToDownload):
        select(GGUF, ADDRESS)
    with pytest.raises(NothingToDownload):
        select(PLAIN, ADDRESS, "", [])
    with pytest.raises(FileNotOnHub):
        select(PLAIN, ADDRESS, "other.safetensors")


def test_the_command_line_selects_the_recommended_gguf_file_and_pickles_only_if_allowed() -> None:
    unattended = FileCriteria(unattended=True)
    assert paths(select_files(GGUF, ADDRESS, unattended)) == ["m.Q4_K_M.gguf"]
    assert paths(select_files(PLAIN, ADDRESS, unattended)) == paths(select(PLAIN))
    with pytest.raises(OptionError, match=r"m\.Q2_K\.gguf"):
        select_files(repository(large("m.Q2_K.gguf"), large("m.Q8_0.gguf")), ADDRESS, unattended)
    pickles = repository(large("pytorch_model.bin"), small("config.json"))
    with pytest.raises(Unsupported, match="--allow-pickles"):
        select_files(pickles, ADDRESS, unattended)
    allowed = select_files(pickles, ADDRESS, replace(unattended, allow_pickles=True))
    assert sorted(paths(allowed)) == ["config.json", "pytorch_model.bin"]


def test_selection_by_metadata_exclusion_or_name() -> None:
    assert paths(select_files(PLAIN, ADDRESS, FileCriteria(metadata_only=True))) == ["config.json", "README.md"]
    assert paths(select_files(PLAIN, ADDRESS, FileCriteria(exclude="model|README"))) == ["config.json"]
    assert paths(select_files(PLAIN, ADDRESS, FileCriteria(files=("code.py", "config.json", "code.py")))) == [
        "code.py",
        "config.json",
    ]


def test_the_preselection_is_the_default_or_the_file_of_the_link() -> None:
    assert preselected_choices(GGUF, ADDRESS) == {"m.Q4_K_M.gguf"}
    vision = repository(*(large(f"{name}.gguf") for name in ("m.Q4_K_M", "m.Q8_0", "mmproj-F32", "mmproj-F16")))
    assert preselected_choices(vision, ADDRESS) == {"m.Q4_K_M.gguf", "mmproj-F16.gguf"}
    assert preselected_choices(PLAIN, ADDRESS) == {"model.safetensors", "config.json", "README.md"}
    assert preselected_choices(GGUF, replace(ADDRESS, file="sub/m.Q8_0.gguf")) == {"sub/m.Q8_0.gguf"}


@pytest.mark.parametrize(
    ("repository", "sizes"),
    [
        (GGUF, {"models/m.Q4_K_M.gguf": 5, "models/m.Q8_0.gguf": 4}),
        (PLAIN, {"models/user_model/model.safetensors": 5, "models/user_model/config.json": 4}),
        (LORA, {"loras/user_model/adapter_model.safetensors": 5}),
    ],
)
def test_present_files_are_recognized_by_target_and_size(
    downloads: DownloadManager, tmp_path: Path, repository: Repository, sizes: dict[str, int]
) -> None:
    assert present_choices(downloads, repository, file_choices.list_choices(repository)) == frozenset()
    for path, size in sizes.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"x" * size)
    first_path = repository.files[0].path
    assert present_choices(downloads, repository, file_choices.list_choices(repository)) == {first_path}
    assert missing_files(downloads, Selection(repository, repository.files[:1])) == ()
    assert missing_files(downloads, select(repository, ADDRESS, repository.files[1].path)) == repository.files[1:2]


def test_a_folder_with_the_name_of_a_file_is_not_a_present_file(downloads: DownloadManager, tmp_path: Path) -> None:
    (tmp_path / "models" / "m.Q4_K_M.gguf").mkdir(parents=True)
    assert present_choices(downloads, GGUF, file_choices.list_choices(GGUF)) == frozenset()


def test_disk_space_is_checked_in_the_target_folder(downloads: DownloadManager) -> None:
    spec = Selection(LORA, LORA.files).spec
    downloads.check_space(spec, 0)
    with pytest.raises(DiskFull, match="loras"):
        downloads.check_space(spec, 1 << 60)


def test_a_known_sha256_pins_commit_and_hash() -> None:
    assert pin_checksum(select(PLAIN, ADDRESS), "").revision == "main"
    spec = pin_checksum(select(PLAIN, ADDRESS), SHA["a"])
    assert spec.revision == COMMIT, "a later commit must not replace it"
    assert spec.sha256 == SHA["a"], "the job requests the list again and compares the hash"
    assert replace(spec, revision="main", sha256="") == select(PLAIN, ADDRESS).spec, "the destination does not change"


@pytest.mark.parametrize(
    ("choice", "digest", "error"),
    [
        (select(PLAIN, ADDRESS), SHA["b"], DigestDiffers),
        (select(PLAIN, ADDRESS, "config.json"), SHA["a"], DigestUnlisted),
        (Selection(GGUF, GGUF.files), SHA["a"], DigestAmbiguous),
        (select(PLAIN, ADDRESS), SHA["a"][1:], BadDigest),
        (select(PLAIN, ADDRESS), "g" * 64, BadDigest),
        (select(PLAIN, ADDRESS), SHA["a"] + "\n", BadDigest),
    ],
)
def test_a_wrong_or_invalid_sha256_is_refused(choice: Selection, digest: str, error: type[DownloadError]) -> None:
    with pytest.raises(error) as refused:
        pin_checksum(choice, digest)
    if error is DigestDiffers:
        assert SHA["a"] in refused.value.say("en") and SHA["b"] in refused.value.say("zh")
