"""Updates of a YAML file that users edit too: comments, backups, concurrent writers."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from modules.config.yaml_file import YamlFile, as_block, dump, to_yaml
from modules.core.errors import SettingsError
from modules.core.paths import ROOT

EDITED = """\
# my own settings
first model:        # the small one
  n_ctx: 4096       # more does not fit
  odd: [1, 2]
'on': {threads: 3}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.yaml"


def test_an_update_keeps_comments_order_and_other_keys(path: Path) -> None:
    path.write_text(EDITED, encoding="utf-8")
    YamlFile(path).update(lambda content: content["first model"].update({"n_ctx": 2048, "mlock": True}))
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# my own settings\nfirst model:        # the small one\n  n_ctx: 2048       # more does")
    assert "odd: [1, 2]" in text and "'on': {threads: 3}" in text and "mlock: true" in text


@pytest.mark.parametrize("text", ["", "# alone\n# 注释\n", "---\n", "{}\n"])
def test_an_update_of_an_empty_file_keeps_its_comments(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
    YamlFile(path).update(lambda content: content.update({"a": 1}))
    assert YamlFile(path).read() == {"a": 1}
    assert all(line in path.read_text(encoding="utf-8") for line in text.splitlines() if line.startswith("#"))


def test_a_key_is_removed_without_the_comments_around_it(path: Path, subtests: pytest.Subtests) -> None:
    for text, left in (
        ("# a\na: 1\n# b\nb: 2\n", "# a\n# b\nb: 2\n"),
        ("b: 2\n# a\na: 1  # about a\n# end\n", "b: 2\n# a\n# a: about a\n# end\n"),
        ("a: |\n  two\n  lines\n# b\nb: 2\n", "# b\nb: 2\n"),
        ("a:\n- 1\n- 2\n# b\nb: 2\n", "# b\nb: 2\n"),
        ('a: "in\n  two lines"\n\nb: 2\n', "\nb: 2\n"),
        ("{a: 1, b: 2}\n", "{b: 2}\n"),
        ("a: &x 1\nb: *x\n", "b: 1\n"),
        ("b: 2\n", "b: 2\n"),
    ):
        with subtests.test(text=text):
            path.write_text(text)
            YamlFile(path).update(lambda content: None, remove={"a"})
            assert "a" not in YamlFile(path).read()
            assert path.read_text() == left or text.startswith(("{", "a: &"))


def test_an_earlier_content_is_put_back_unless_the_file_has_changed(path: Path) -> None:
    file = YamlFile(path)
    file.put_back(b"a: 1  # one\n", unless_changed_from=None)
    assert path.read_text() == "a: 1  # one\n"
    with pytest.raises(SettingsError, match="has been changed"):
        file.put_back(b"", unless_changed_from=b"a: 2\n")
    file.put_back(None, unless_changed_from=b"a: 1  # one\n")
    assert not path.exists() and file.content() is None


def test_keys_are_read_as_text(path: Path) -> None:
    path.write_text("1.10: 1\nyes: 2\n2024-01-01: 3\nnull: 4\n", encoding="utf-8")
    assert YamlFile(path).read() == {"1.10": 1, "yes": 2, "2024-01-01": 3, "null": 4}


@pytest.mark.parametrize(
    "value", ["on", "no", "1e3", "0x10", "12", "null", "~", "1:30", "2024-01-01", "", " a ", "a\nb"]
)
def test_text_that_looks_like_another_type_stays_text(path: Path, value: str) -> None:
    YamlFile(path).update(lambda content: content.update({"text": to_yaml(value)}))
    assert YamlFile(path).read() == {"text": value}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\nb: 2\n", "line 2, column"),
        ("a: 1\na: 2\n", "line 2, column 1: duplicate key 'a'"),
        ("- a list\n", "lines of `key: value`"),
        ("a: 2024-13-45\n", "month"),
        ("a: \x01\n", "not allowed"),
    ],
)
def test_invalid_yaml_is_an_error_with_its_position_and_backed_up_on_update(
    path: Path, text: str, message: str
) -> None:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(SettingsError, match=message):
        YamlFile(path).read()
    assert path.read_text(encoding="utf-8") == text
    for number in (1, 2):
        path.write_text(text, encoding="utf-8")
        backup = YamlFile(path).update(lambda content: content.update({"new": 1}))
        assert backup == path.with_name(f"file.yaml.broken-{number}")
        assert backup.read_text(encoding="utf-8") == text
        assert YamlFile(path).read() == {"new": 1}


def test_an_unreadable_file_is_not_treated_as_invalid(path: Path) -> None:
    path.mkdir()
    with pytest.raises(SettingsError):
        YamlFile(path).update(lambda content: content.update({"a": 1}))
    assert not list(path.parent.glob("*broken*"))


def test_aliases_and_merge_keys_are_read(path: Path) -> None:
    path.write_text("base: &b {n_ctx: 1, threads: 2}\na: {<<: *b, n_ctx: 3}\nc: *b\n", encoding="utf-8")
    assert YamlFile(path).read() == {
        "base": {"n_ctx": 1, "threads": 2},
        "a": {"n_ctx": 3, "threads": 2},
        "c": {"n_ctx": 1, "threads": 2},
    }


def test_changes_by_other_programs_are_seen(path: Path) -> None:
    file = YamlFile(path)
    assert file.read() == {}
    path.write_text("a: 1\n", encoding="utf-8")
    assert file.read() == {"a": 1}
    path.write_text("a: 22\n", encoding="utf-8")
    assert file.read() == {"a": 22}


def test_a_failed_update_leaves_the_file_unchanged_and_no_temporary_file(path: Path) -> None:
    path.write_text("a: 1\n", encoding="utf-8")

    def fail(content: object) -> None:
        raise OSError("no space left")

    with pytest.raises(SettingsError, match="no space left"):
        YamlFile(path).update(fail)
    with pytest.raises(SettingsError):
        YamlFile(path).update(lambda content: content.update({"a": object()}))
    assert path.read_text(encoding="utf-8") == "a: 1\n"
    assert {entry.name for entry in path.parent.iterdir()} == {"file.yaml", ".file.yaml.lock"}


def test_an_update_keeps_a_symbolic_link_and_permissions(path: Path) -> None:
    target = path.with_name("target.yaml")
    target.write_text("a: 1\n", encoding="utf-8")
    target.chmod(0o600)
    path.symlink_to(target)
    YamlFile(path).update(lambda content: content.update({"a": 2}))
    assert path.is_symlink() and YamlFile(target).read() == {"a": 2}
    assert os.stat(target).st_mode & 0o777 == 0o600


def test_concurrent_updates_by_several_processes_lose_nothing(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from modules.config.yaml_file import YamlFile\n"
        "file, name = YamlFile(Path(sys.argv[1])), sys.argv[2]\n"
        "for number in range(20): file.update(lambda content: content.update({f'{name}{number}': number}))"
    )
    commands = [[sys.executable, "-c", program, str(path), name] for name in "abc"]
    processes = [subprocess.Popen(command, cwd=ROOT) for command in commands]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert len(YamlFile(path).read()) == 60


def test_texts_of_several_lines_are_blocks_where_yaml_can_keep_them(path: Path, subtests: pytest.Subtests) -> None:
    texts = {
        "a\nb": True, "\n\n a\n\n": True, "- x\n# y\n---\n": True, "a\tb \n\tc": True,
        "a\r\nb": False, "a\x01\nb": False, "one line": False, "on": False, "": False,
    }  # fmt: skip
    for text, is_block in texts.items():
        with subtests.test(text):
            YamlFile(path).update(lambda content, text=text: content.update(text=as_block(text), list=to_yaml([text])))
            assert YamlFile(path).read() == {"text": text, "list": [text]}
            assert path.read_text(encoding="utf-8").startswith("text: |") is is_block
            assert yaml.safe_load(dump({"text": as_block(text)})) == {"text": text}


def test_what_is_nested_too_deeply_is_refused_before_it_is_read(path: Path, subtests: pytest.Subtests) -> None:
    for text in ("a: " + "[" * 1_000_000, "a:\n  " + "- " * 1_000_000, "a: " + "{b: " * 200_000):
        with subtests.test(text[:9]):
            path.write_text(text, encoding="utf-8")
            with pytest.raises(SettingsError, match="nested"):
                YamlFile(path).read()
    path.write_text("a: " + "[" * 99 + "]" * 99, encoding="utf-8")
    assert "a" in YamlFile(path).read()


def test_content_that_cannot_be_read_or_put_back_is_an_error(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    path.write_bytes(b"a: 1\n")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(SettingsError, match="Read-only file system"):
        YamlFile(path).put_back(b"a: 2\n", unless_changed_from=b"a: 1\n")
    monkeypatch.undo()
    assert YamlFile(path).content() == b"a: 1\n"
    path.unlink()
    path.mkdir()
    with pytest.raises(SettingsError, match="Is a directory"):
        YamlFile(path).content()
