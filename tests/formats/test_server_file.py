"""Files that stand for models on servers: what they say, and how addresses are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.core.errors import DamagedModel, OptionError
from modules.formats.server_file import ServerFile, checked_url, is_address, origin, read_server

ADDRESSES = {
    "http://127.0.0.1:8080": "http://127.0.0.1:8080",
    "http://127.0.0.1:8080/": "http://127.0.0.1:8080",
    "http://127.0.0.1:8080/v1": "http://127.0.0.1:8080",
    " https://openrouter.ai/api/v1/ ": "https://openrouter.ai/api",
    "http://[::1]:80": "http://[::1]:80",
}
NO_ADDRESSES = (
    *("", "localhost:8080", "ftp://host", "file:///etc/passwd", "http://", "http://user:secret@host", "http://host:0"),
    *(
        "http://host:65536",
        "http://host/?key=1",
        "http://host/#a",
        "http://ho st",
        "http://host\nX",
        "http://host/../v1?",
    ),
)
DAMAGED = {
    "model: m": "url: expected",
    "url: host:8080": "url: expected",
    "url: http://h\nkind: other": "kind: expected one of auto, vllm",
    "url: http://h\nkey_env: a b": "key_env: expected",
    "url: http://h\nadress: x": "unknown key 'adress'",
    "url: http://h\nkeyenv: X": "Did you mean key_env?",
}


def test_an_address_is_kept_without_v1_and_slashes(subtests: pytest.Subtests) -> None:
    for text, kept in ADDRESSES.items():
        with subtests.test(text):
            assert checked_url(text) == kept
            assert checked_url(kept) == kept


def test_what_is_no_address_of_a_server_is_refused(subtests: pytest.Subtests) -> None:
    for text in NO_ADDRESSES:
        with subtests.test(ascii(text)):
            with pytest.raises(OptionError) as error:
                checked_url(text)
            assert "secret" not in str(error.value)
            assert not is_address(text)


def test_an_origin_is_scheme_host_and_port() -> None:
    assert origin("https://API.example.com/api") == "https://api.example.com:443"
    assert origin("http://api.example.com") == "http://api.example.com:80"
    assert origin("http://[::1]:8080/x") == "http://[::1]:8080"


def test_a_file_becomes_load_options(tmp_path: Path) -> None:
    file = tmp_path / "a.server.yaml"
    file.write_text("url: http://h:1/v1\nmodel: m\nkind: vllm\nkey_env: KEY\nca: ca.pem\n")
    server = read_server(file)
    assert server == ServerFile("http://h:1", "m", "vllm", "KEY", "ca.pem")
    assert server.load_options() == {
        "server_url": "http://h:1",
        "server_model": "m",
        "server_kind": "vllm",
        "server_key_env": "KEY",
        "server_ca": "ca.pem",
    }
    file.write_text("url: http://h\n")
    assert read_server(file).load_options() == {"server_url": "http://h"}


def test_a_damaged_file_says_what_is_expected(tmp_path: Path, subtests: pytest.Subtests) -> None:
    file = tmp_path / "a.server.yaml"
    for text, problem in DAMAGED.items():
        with subtests.test(text):
            file.write_text(text)
            with pytest.raises(DamagedModel) as error:
                read_server(file)
            assert problem in str(error.value)
            assert error.value.say("zh") != str(error.value)
