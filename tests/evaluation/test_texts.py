"""Texts to evaluate on: which files are offered, and what is said of those that cannot be read."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from modules.core.paths import ROOT
from modules.evaluation import texts
from modules.evaluation.errors import TextNotFound, TextUnreadable
from modules.evaluation.texts import TextLibrary, read_text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "datasets"
    folder.mkdir()
    (folder / "b.txt").write_text("one two")
    (folder / "a.TXT").write_text("三国")
    (folder / ".hidden.txt").write_text("x")
    (folder / "data.json").write_text("[]")
    (folder / "folder.txt").mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    (folder / "link.txt").symlink_to(tmp_path / "outside.txt")
    return folder


def test_the_texts_of_the_folder_are_listed(folder: Path) -> None:
    assert [(file.name, file.size) for file in TextLibrary(folder).files()] == [("a.TXT", 6), ("b.txt", 7)]
    assert TextLibrary(folder / "missing").files() == []


def test_a_text_is_read_by_its_name_with_or_without_the_ending(folder: Path) -> None:
    found = TextLibrary(folder).read("b")
    assert found == TextLibrary(folder).read("b.txt")
    assert (found.name, found.text, found.sha256) == ("b.txt", "one two", hashlib.sha256(b"one two").hexdigest())


def test_names_that_lead_out_of_the_folder_are_not_found(folder: Path, subtests: pytest.Subtests) -> None:
    for name in (
        "../outside",
        "../outside.txt",
        str(folder / "b.txt"),
        "link",
        ".hidden",
        "folder",
        "",
        "..",
        "b\0",
        "x" * 999,
    ):
        with subtests.test(name=ascii(name)), pytest.raises(TextNotFound):
            TextLibrary(folder).read(name)


def test_a_byte_order_mark_is_no_part_of_the_text_and_line_ends_are_kept(tmp_path: Path) -> None:
    (tmp_path / "bom.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    (tmp_path / "plain.txt").write_bytes(b"a\r\nb")
    found, plain = read_text(tmp_path / "bom.txt"), read_text(tmp_path / "plain.txt")
    assert found.text == plain.text == "a\r\nb" and found.sha256 == plain.sha256


def test_the_byte_that_is_not_utf_8_is_named(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for raw, byte in (
        (b"ab\xff", "byte 2 is 0xff"),
        (b"\xef\xbb\xbfa\xb0", "byte 4 is 0xb0"),
        ("三".encode("gbk"), "byte 0"),
    ):
        with subtests.test(byte=byte):
            (tmp_path / "t.txt").write_bytes(raw)
            with pytest.raises(TextUnreadable, match=byte):
                read_text(tmp_path / "t.txt")


def test_what_is_empty_missing_too_large_or_no_file_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, subtests: pytest.Subtests
) -> None:
    monkeypatch.setattr(texts, "MAX_BYTES", 10)
    (tmp_path / "empty.txt").write_text(" \n")
    (tmp_path / "large.txt").write_text("x" * 11)
    for name, words in (
        ("empty.txt", "empty"),
        ("large.txt", "larger"),
        ("gone.txt", "not a file"),
        (".", "not a file"),
    ):
        with subtests.test(name=name), pytest.raises(TextUnreadable, match=words):
            read_text(tmp_path / name)


def test_a_text_that_the_disk_does_not_give_says_why() -> None:
    memory = Path("/proc/self/mem")  # a regular file whose first byte cannot be read
    with pytest.raises(TextUnreadable, match="Input/output error") as refusal:
        read_text(memory)
    assert "Input/output error。" in refusal.value.say("zh")


def test_the_shipped_texts_are_utf_8_of_about_60_kilobytes() -> None:
    library = TextLibrary(ROOT / "training" / "datasets")
    for name in ("alice-in-wonderland", "journey-to-the-west"):
        found = library.read(name)
        assert 50_000 < len(found.text.encode()) < 70_000 and "�" not in found.text and "Gutenberg" not in found.text
