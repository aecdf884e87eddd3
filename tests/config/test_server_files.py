"""Files of models on servers, and the keys of servers, as the page writes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.config.server_files import ServerFiles
from modules.core.errors import DamagedModel, NameTaken, OptionError, SettingsError, WebUIError
from modules.formats.server_file import ServerFile, read_server
from modules.formats.server_keys import KEYS_FILE, find_key

SERVER = ServerFile("http://h:8080", "on: a model", "vllm")


def test_a_file_says_what_was_saved(tmp_path: Path) -> None:
    assert ServerFiles(tmp_path).save("我的 server", SERVER) == "我的 server.server.yaml"
    assert read_server(tmp_path / "我的 server.server.yaml") == SERVER


def test_a_file_for_the_same_server_is_changed_and_keeps_what_people_wrote(tmp_path: Path) -> None:
    file = tmp_path / "a.server.yaml"
    file.write_text("# mine\nurl: http://h:8080/v1\nmodel: old\nkind: ollama\nkey_env: KEY\nca: ca.pem\n")
    ServerFiles(tmp_path).save("a", ServerFile("http://h:8080", "new"))
    assert file.read_text().startswith("# mine\n")
    assert read_server(file) == ServerFile("http://h:8080", "new", "auto", "KEY", "ca.pem")


def test_a_file_for_another_server_is_not_replaced(tmp_path: Path) -> None:
    for text in ("url: http://other:8080\n", "url: https://h:8080\n", "damaged"):
        (tmp_path / "a.server.yaml").write_text(text)
        with pytest.raises(NameTaken):
            ServerFiles(tmp_path).save("a", SERVER)
        assert (tmp_path / "a.server.yaml").read_text() == text


def test_a_name_stays_in_the_folder(tmp_path: Path) -> None:
    for name in ("", "../a", "a/b", ".a", "con", "a" * 300):
        with pytest.raises(OptionError):
            ServerFiles(tmp_path).save(name, SERVER)
    assert list(tmp_path.iterdir()) == []


def test_keys_are_in_a_file_that_only_this_user_can_read(tmp_path: Path) -> None:
    files, path = ServerFiles(tmp_path), tmp_path / KEYS_FILE
    files.save_key("http://h:8080", "first")
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    files.save_key("https://other/v1", "yes")
    files.save_key("http://h:8080/x", "second")
    assert path.stat().st_mode & 0o777 == 0o600
    assert find_key(tmp_path, "http://h:8080", "", {}) == "second"
    assert find_key(tmp_path, "https://other", "", {}) == "yes"
    assert [files.key(url) for url in ("http://h:8080", "http://h")] == ["second", ""]


def test_a_key_is_never_in_an_error(tmp_path: Path) -> None:
    (tmp_path / KEYS_FILE).write_text("http://h: [sk-1]\n")
    errors: list[WebUIError] = []
    for key in ("sk-1 sk-1", "sk-1\nHost: x", "", "sk-1é"):
        with pytest.raises(OptionError) as error:
            ServerFiles(tmp_path).save_key("http://h", key)
        errors.append(error.value)
    with pytest.raises(DamagedModel) as damaged:
        ServerFiles(tmp_path).save_key("http://h", "sk-1")
    for error_value in [*errors, damaged.value]:
        assert "sk-1" not in repr(error_value.to_json())


def test_a_key_that_cannot_be_saved_is_an_error_without_it(tmp_path: Path) -> None:
    (tmp_path / KEYS_FILE).symlink_to(tmp_path / "no folder" / "keys")
    with pytest.raises(SettingsError, match="No such file or directory") as error:
        ServerFiles(tmp_path).save_key("http://h", "sk-1")
    assert "sk-1" not in repr(error.value.to_json())
