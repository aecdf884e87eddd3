"""Untrusted JSON files are read as objects or refused with a reason."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from modules.core.errors import DamagedModel, IncompleteModel, ModelProblem
from modules.formats import json_file
from modules.formats.json_file import MAX_INTEGER, first_integer, read_json, read_json_object
from modules.system.bounded_reader import BoundedReader
from modules.system.format_errors import FormatError


def test_an_object_is_read(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"name": "猫", "sizes": [1, {"deep": null}]}', encoding="utf-8")
    assert read_json(path) == {"name": "猫", "sizes": [1, {"deep": None}]}


INVALID: list[tuple[bytes, str, type[ModelProblem]]] = [
    (b"", "not a JSON file but an empty file", IncompleteModel),
    (bytes(100), "not a JSON file but zeros", IncompleteModel),
    (b"version https://git-lfs.github.com/spec/v1\n", "git-lfs pointer", IncompleteModel),
    (b"<html>", "not a JSON file but a web page", DamagedModel),
    (b"{", "invalid or breaks off at line 1, column 2", DamagedModel),
    (b'{"a": 1,\n "b": ', "invalid or breaks off at line 2, column 7", DamagedModel),
    (b'{"a": 1} {', "invalid or breaks off at line 1, column 10", DamagedModel),
    (b"[1]", "not a JSON file", DamagedModel),
    (b'"text"', "not a JSON file", DamagedModel),
    (b"5", "not a JSON file", DamagedModel),
    (b"null", "not a JSON file", DamagedModel),
    (b"\xff", "not a JSON file", DamagedModel),
    (b'{"a": "\xff"}', "not a JSON file", DamagedModel),
    (b"[" * 100_000, "not a JSON file", DamagedModel),
    (b'{"a":' * 100_000, "not a JSON file", DamagedModel),
    (b'{"a": ' + b"9" * 5000 + b"}", "not a JSON file", DamagedModel),
]


def test_other_content_is_refused_with_the_name_of_the_file(tmp_path: Path, subtests: pytest.Subtests) -> None:
    for number, (content, message, problem) in enumerate(INVALID):
        with subtests.test(content=content[:40]):
            path = tmp_path / f"{number}-config.json"
            path.write_bytes(content)
            with pytest.raises(problem) as caught:
                read_json(path)
            assert message in caught.value.say("en") and path.name in caught.value.say("zh")


def test_a_missing_file_raises_oserror(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_json(tmp_path / "config.json")


def test_an_object_of_a_given_length_is_read_from_the_middle_of_a_file() -> None:
    reader = BoundedReader(io.BytesIO(b'head{"a": 1}tail'), 16)
    reader.skip(4)
    assert read_json_object(reader, 8) == {"a": 1}
    assert reader.read(4) == b"tail"


def test_a_length_beyond_the_end_of_the_file_is_refused() -> None:
    with pytest.raises(FormatError, match="ends within its header, after 8 bytes") as caught:
        read_json_object(BoundedReader(io.BytesIO(b'{"a": 1}'), 8), 9)
    assert caught.value.kind is IncompleteModel


def test_a_length_above_the_limit_is_refused_before_the_file_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(json_file, "MAX_JSON_BYTES", 1000)
    content = b"{" + b" " * 998 + b"}"
    assert read_json_object(BoundedReader(io.BytesIO(content), 1000), 1000) == {}
    with pytest.raises(FormatError, match="its JSON has 1,001 bytes"):
        read_json_object(BoundedReader(io.BytesIO(content), 1 << 40), 1001)


def test_the_first_key_with_an_integer_is_used() -> None:
    source = {"a": 1, "b": 2}
    assert first_integer(source, "a", "b") == 1
    assert first_integer(source, "b", "a") == first_integer(source, "x", "b") == 2
    assert first_integer(source, "x") == first_integer(source) == 0


@pytest.mark.parametrize("value", ["5", 5.0, True, None, [5], {"a": 5}, 0, -1, MAX_INTEGER, 10**30])
def test_a_value_that_is_not_a_sensible_integer_counts_as_missing(value: object) -> None:
    assert first_integer({"a": value}, "a") == 0
    assert first_integer({"a": value, "b": 7}, "a", "b") == 7


def test_the_minimum_and_the_largest_integer_are_accepted() -> None:
    assert first_integer({"a": -1}, "a", minimum=-1) == -1 and first_integer({"a": -2}, "a", minimum=-1) == 0
    assert first_integer({"a": 0}, "a", minimum=0) == 0 and first_integer({"a": 1}, "a") == 1
    assert first_integer({"a": MAX_INTEGER - 1}, "a") == MAX_INTEGER - 1
