"""YAML files of one level: what is read, and what is refused by its line, without quoting it."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.formats.flat_yaml import MAX_BYTES, read_flat
from modules.system.format_errors import FormatError

GOOD = {
    "url: http://host:8080\nmodel: 1.10 # a comment\n": {"url": "http://host:8080", "model": "1.10"},
    "a: \"on: #\"\nb: 'yes'\nc: no\n": {"a": "on: #", "b": "yes", "c": "no"},
    "a:\nb: ~\nc: null\nd: 'null'\n": {"a": "", "b": "", "c": "", "d": "null"},
    "": {},
    "# only a comment\n": {},
    "---\n": {},
    "{a: b}": {"a": "b"},
}
BAD = {
    "[1]": 1,
    "text": 1,
    "a: b\nc: [1]": 2,
    "a: b\nc:\n  d: e": 3,
    "a: &x b\nc: *x": 2,
    "a: b\na: c": 2,
    "a: 'b": 1,
    "\x01": 1,
    "a: b\n? [k]\n: v": 2,
    "[" * 30_000: 1,
}


def test_values_are_texts_as_they_are_written(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for text, expected in GOOD.items():
        with subtests.test(ascii(text)):
            (tmp_path / "f.yaml").write_text(text)
            assert read_flat(tmp_path / "f.yaml") == expected


def test_what_is_not_flat_is_refused_with_its_line(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for text, line in BAD.items():
        with subtests.test(ascii(text[:30])):
            (tmp_path / "f.yaml").write_text(text)
            with pytest.raises(FormatError, match=f"line {line}: expected lines of `key: value`, each key once.$"):
                read_flat(tmp_path / "f.yaml")


def test_a_file_that_is_too_large_or_no_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f.yaml").write_bytes(b"a" * (MAX_BYTES + 1))
    with pytest.raises(FormatError, match="larger"):
        read_flat(tmp_path / "f.yaml")
    (tmp_path / "f.yaml").write_bytes(b"a: \xff")
    with pytest.raises(FormatError, match="UTF-8"):
        read_flat(tmp_path / "f.yaml")
