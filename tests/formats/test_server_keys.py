"""Keys of servers: by variable, or by the origin in the file, and never in an error."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.errors import DamagedModel, OptionError
from modules.formats.server_keys import KEYS_FILE, find_key, is_readable_by_others, read_keys


def write(folder: Path, text: str) -> None:
    (folder / KEYS_FILE).write_text(text)


def test_a_key_is_found_by_the_origin_of_the_server_alone(tmp_path: Path) -> None:
    write(tmp_path, "https://api.example.com/v1: sk-1\nhttp://h:8080: k2\nnothing: k3\nhttp://i: two words\n")
    assert read_keys(tmp_path) == {"https://api.example.com:443": "sk-1", "http://h:8080": "k2"}
    assert find_key(tmp_path, "https://api.example.com/api", "", {}) == "sk-1"
    for other in ("http://api.example.com", "https://api.example.com:8443", "https://example.com"):
        assert find_key(tmp_path, other, "", {}) == ""


def test_without_a_file_there_are_no_keys(tmp_path: Path) -> None:
    assert find_key(tmp_path, "http://h", "", {}) == ""


def test_a_variable_that_is_named_takes_the_place_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, "http://h: file\n")
    assert find_key(tmp_path, "http://h", "MY_KEY", {"MY_KEY": " from-variable\n"}) == "from-variable"
    for environment in ({}, {"MY_KEY": ""}, {"MY_KEY": "two\nlines"}, {"MY_KEY": "clé"}):
        with pytest.raises(OptionError, match="MY_KEY") as error:
            find_key(tmp_path, "http://h", "MY_KEY", environment)
        assert "two" not in str(error.value)


def test_an_error_of_the_file_does_not_quote_it(tmp_path: Path) -> None:
    for text in ("http://h: 'secret", "http://h: [secret]", "secret"):
        write(tmp_path, text)
        with pytest.raises(DamagedModel) as error:
            read_keys(tmp_path)
        assert "secret" not in repr(error.value.to_json())


def test_a_file_that_others_can_read_is_noticed(tmp_path: Path) -> None:
    assert not is_readable_by_others(tmp_path)
    write(tmp_path, "")
    (tmp_path / KEYS_FILE).chmod(0o644)
    assert is_readable_by_others(tmp_path)
    (tmp_path / KEYS_FILE).chmod(0o600)
    assert not is_readable_by_others(tmp_path)


def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / KEYS_FILE).mkdir()
    with pytest.raises(DamagedModel, match=r"\.keys\.yaml.*Is a directory"):
        read_keys(tmp_path)
