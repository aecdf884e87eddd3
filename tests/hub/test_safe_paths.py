"""Hostile file names are refused, and links do not lead out of a folder."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from modules.hub.errors import LinkInTheWay, UnsafeName
from modules.hub.repository import RemoteFile
from modules.hub.safe_paths import check_files, check_path, escape_name, move_below, open_below

OID = "a" * 40
WRITING = os.O_WRONLY | os.O_CREAT | os.O_EXCL

HOSTILE = [
    *("", "/", ".", "..", "../x", "a/../x", "a/..", "a/./b", "a//b", "/etc/passwd", "a/", "//server/share"),
    *("..\\x", "a\\b", "C:/x", "C:x", "a:stream", "~/\x00", "a\x00b", "a\nb", "a\x7fb", "\x1b[2J"),
    *("\u202egpj.exe", "a\u2066b", "a\u200fb", "a\u2028b", "\ud800", "a\x85b"),
    *("a.", "a ", "a./b", " ./b", "... ", "con", "NUL.txt", "com1", "LPT9.gguf", "aux .txt", "COM¹", "conin$"),
    *('a"b', "a<b", "a>b", "a|b", "a?b", "a*b", "x" * 241, "猫" * 81, "/".join(["abcdefgh"] * 120)),
    *(".git/config", ".GIT/hooks/post-checkout", ".cache/x", ".downloads/jobs.json", ".Downloads/x"),
]
PLAIN = [
    "a",
    "a.b.c",
    ".gitattributes",
    "sub/.git",
    "模型/猫.gguf",
    "a b",
    "con1",
    "console",
    "x" * 240,
    "-rf",
    "com",
    "é",
]


def file(path: str, size: object = 1, sha256: str = "", git_oid: str = OID) -> RemoteFile:
    return RemoteFile(path, size, sha256, git_oid)  # type: ignore[arg-type]


def snapshot(folder: Path) -> dict[str, object]:
    """Return link target, time and size of everything below `folder`, without following links."""
    entries: dict[str, object] = {}
    for parent, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = Path(parent, name)
            link = os.readlink(path) if path.is_symlink() else ""
            entries[str(path.relative_to(folder))] = (link, path.lstat().st_mtime_ns, path.lstat().st_size)
    return entries


@pytest.fixture
def guarded_folder(tmp_path: Path) -> Path:
    """A folder that contains a target and files that must not change."""
    (tmp_path / "target").mkdir()
    (tmp_path / "x").write_text("mine")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "kept").write_text("mine")
    return tmp_path


def test_a_hostile_name_is_refused_with_a_printable_message(guarded_folder: Path, subtests: pytest.Subtests) -> None:
    for name in HOSTILE:
        with subtests.test(name=ascii(name)):
            unchanged = snapshot(guarded_folder)
            with pytest.raises(UnsafeName) as caught:
                check_files([file("config.json"), file(name)])
            assert caught.value.say("en").isprintable() and caught.value.say("zh").isprintable()
            with pytest.raises(UnsafeName):
                open_below(guarded_folder / "target", name, WRITING)
            with pytest.raises(UnsafeName):
                move_below(guarded_folder / "x", guarded_folder / "target", name)
            assert snapshot(guarded_folder) == unchanged


def test_there_are_many_hostile_names() -> None:
    assert len(set(HOSTILE)) >= 40


def test_a_plain_name_is_written_to_disk_under_that_name(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, name in enumerate(PLAIN):
        with subtests.test(name=name):
            folder = tmp_path / str(number)
            folder.mkdir()
            check_files([file(name)])
            os.close(open_below(folder / "new", name, WRITING))
            assert (folder / "new" / name).is_file()


COLLIDING = [
    ["a", "A"],
    ["sub/File", "SUB/file"],
    ["straße", "STRASSE"],
    ["caf\u00e9", "cafe\u0301"],
    ["a", "a"],
    ["a", "a/b"],
    ["a/b/c", "A"],
    ["a/b/c", "a/B"],
]


def test_two_names_of_the_same_file_are_refused(subtests: pytest.Subtests) -> None:
    for paths in COLLIDING:
        with subtests.test(paths=ascii(paths)):
            check_files([file(paths[0])])
            with pytest.raises(UnsafeName):
                check_files(map(file, paths))


@pytest.mark.parametrize("size", [-1, (4 << 40) + 1, 1.0, "1", True, None])
def test_an_impossible_size_is_refused(size: object) -> None:
    with pytest.raises(UnsafeName):
        check_files([file("a", size)])


@pytest.mark.parametrize(
    ("sha256", "git_oid"),
    [("", ""), ("a" * 63, ""), ("", "a" * 41), ("../" + "a" * 61, ""), ("A" * 64, ""), ("g" * 64, OID)],
)
def test_an_invalid_hash_is_refused(sha256: str, git_oid: str) -> None:
    with pytest.raises(UnsafeName):
        check_files([file("a", 1, sha256, git_oid)])
    check_files([file("a", 4 << 40, "a" * 64, ""), file("b", 0, "", OID)])


def test_accepted_random_names_stay_below_their_folder() -> None:
    """Names are built from random dangerous parts; an accepted one stays inside on POSIX and Windows."""
    generator = random.Random(18)
    pieces = [
        "..",
        ".",
        "/",
        "\\",
        "a",
        "B",
        " ",
        ":",
        "con",
        "nul",
        "\0",
        "\u202e",
        "~",
        "é",
        "C:",
        ".git",
        "\n",
        "x" * 90,
    ]
    accepted = 0
    for _ in range(20_000):
        name = "".join(generator.choice(pieces) for _ in range(generator.randint(1, 7)))
        try:
            check_path(name)
        except UnsafeName:
            continue
        accepted += 1
        assert os.path.normpath(os.path.join("/target", name)) == f"/target/{name}"
        assert not set(name) & set("\\:\0\n\u202e") and name.split("/")[0] != ".git"
        assert all(part.lower() not in ("con", "nul") and part == part.rstrip(". ") for part in name.split("/"))
    assert accepted > 300


@pytest.fixture(params=["by folder", "by path"])
def with_and_without_dir_fd(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the test with directory descriptors, and without them as on Windows."""
    if request.param == "by path":
        monkeypatch.setattr("modules.hub.safe_paths._HAS_DIR_FD", False)
        monkeypatch.setattr("modules.hub.safe_paths._NO_FOLLOW", 0)


@pytest.mark.usefixtures("with_and_without_dir_fd")
@pytest.mark.parametrize("link", ["a", "a/b"])
def test_a_link_in_the_target_is_not_written_through(link: str, guarded_folder: Path) -> None:
    """Spec test 14: neither through a linked folder nor through a link below it."""
    target, outside = guarded_folder / "target", guarded_folder / "outside"
    (target / link).parent.mkdir(exist_ok=True)
    (target / link).symlink_to(outside)
    unchanged = snapshot(guarded_folder)
    with pytest.raises(LinkInTheWay) as caught:
        open_below(target, f"{link}/new", WRITING)
    assert f"{link}/new" in caught.value.say("en")
    with pytest.raises(LinkInTheWay):
        move_below(guarded_folder / "x", target, f"{link}/kept")
    with pytest.raises(LinkInTheWay):
        open_below(target, f"{link}/kept", os.O_RDONLY)
    assert snapshot(guarded_folder) == unchanged


@pytest.mark.usefixtures("with_and_without_dir_fd")
def test_a_file_in_place_of_a_folder_is_named_as_one(tmp_path: Path) -> None:
    (tmp_path / "model").touch()
    with pytest.raises(LinkInTheWay, match="a file in place of a folder"):
        open_below(tmp_path, "model/config.json", os.O_RDONLY)


@pytest.mark.usefixtures("with_and_without_dir_fd")
def test_a_file_that_is_a_link_is_not_opened_but_may_be_replaced(guarded_folder: Path) -> None:
    target = guarded_folder / "target"
    (target / "file").symlink_to(guarded_folder / "outside" / "kept")
    with pytest.raises(LinkInTheWay):
        open_below(target, "file", os.O_WRONLY | os.O_TRUNC)
    with pytest.raises(LinkInTheWay):
        open_below(target, "file", os.O_WRONLY | os.O_CREAT)
    move_below(guarded_folder / "x", target, "file")
    assert not (target / "file").is_symlink() and (target / "file").read_text() == "mine"
    assert (guarded_folder / "outside" / "kept").read_text() == "mine"


@pytest.mark.usefixtures("with_and_without_dir_fd")
def test_the_target_folder_itself_may_be_a_link(guarded_folder: Path) -> None:
    (guarded_folder / "models").symlink_to(guarded_folder / "target")
    os.close(open_below(guarded_folder / "models", "sub/deep/file", WRITING))
    assert (guarded_folder / "target" / "sub" / "deep" / "file").is_file()


@pytest.mark.usefixtures("with_and_without_dir_fd")
def test_reading_creates_no_folders(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_below(tmp_path, "sub/file", os.O_RDONLY)
    assert list(tmp_path.iterdir()) == []


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    count_before = len(os.listdir("/proc/self/fd"))
    os.close(open_below(tmp_path, "a/b/c/d", WRITING))
    with pytest.raises(FileExistsError):
        open_below(tmp_path, "a/b/c/d", WRITING)
    assert len(os.listdir("/proc/self/fd")) == count_before


def test_a_long_name_is_shortened_for_display() -> None:
    assert escape_name("猫\n" + "x" * 300) == "猫\\n" + "x" * 98 + "…"
