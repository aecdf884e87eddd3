"""What loading a model on a server asks, and the notes on it. The key is named, never shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from modules.engines.remote.arguments import arguments, is_this_machine, key_source
from modules.engines.remote.loader import LOADER
from modules.engines.remote.notes import notes
from modules.options.load_remote import REMOTE
from modules.options.option import Value


def options(**changed: Value) -> dict[str, Value]:
    return {option.key: option.default for option in REMOTE} | {"server_url": "http://127.0.0.1:8080"} | changed


def noted(folder: Path, environment: dict[str, str] | None = None, **changed: Value) -> list[tuple[str, str]]:
    found = notes(folder / "a.server.yaml", options(**changed), environment or {})
    return [(note.option, note.text["en"]) for note in found]


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / ".keys.yaml"
    file.write_text("https://api.example.com: sk-secret\nhttp://10.0.0.5:8000: sk-secret\n")
    file.chmod(0o600)
    return file


def test_defaults_ask_the_server(tmp_path: Path) -> None:
    calls = arguments(tmp_path / "a.server.yaml", options(), {})
    assert calls["connect"] == {
        "url": "http://127.0.0.1:8080",
        "kind": "auto",
        "model": None,
        "key": None,
        "ca": None,
    }
    assert calls["generate"]["at_once"] == 512


def test_the_key_is_named_by_its_source_alone(tmp_path: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "sk-variable")
    path = tmp_path / "a.server.yaml"
    for changed, source in (
        ({"server_url": "https://api.example.com/v1"}, ".keys.yaml"),
        ({"server_url": "https://api.example.com", "server_key_env": "MY_KEY"}, "MY_KEY"),
        ({"server_url": "https://other.example.com"}, None),
    ):
        assert key_source(path, options(**changed)) == source
        explained = LOADER.explain(path, options(**changed))
        assert explained["calls"]["connect"]["key"] == source
        assert "sk-" not in json.dumps(explained)


def test_certificates_are_found_beside_the_file(tmp_path: Path) -> None:
    calls = arguments(tmp_path / "a.server.yaml", options(server_ca="ca.pem"), {})
    assert calls["connect"]["ca"] == str(tmp_path / "ca.pem")
    calls = arguments(tmp_path / "a.server.yaml", options(server_ca="/etc/ca.pem"), {})
    assert calls["connect"]["ca"] == "/etc/ca.pem"


def test_an_address_of_this_machine_is_known(subtests: pytest.Subtests) -> None:
    for host, expected in (("127.0.0.2", True), ("localhost", True), ("[::1]", True), ("10.0.0.1", False)):
        with subtests.test(host):
            assert is_this_machine(f"http://{host}:80") is expected


def test_what_others_can_read_is_noted(tmp_path: Path, keys: Path) -> None:
    assert noted(tmp_path) == noted(tmp_path, server_url="https://api.example.com") == []
    assert "prompts and answers." in noted(tmp_path, server_url="http://10.0.0.6:8000")[0][1]
    assert "and the key" in noted(tmp_path, server_url="http://10.0.0.5:8000")[0][1]
    keys.chmod(0o644)
    assert [option for option, _ in noted(tmp_path, server_url="https://api.example.com")] == ["server_key_env"]


def test_options_without_effect_are_noted(tmp_path: Path) -> None:
    assert noted(tmp_path, server_ca="ca.pem") == [("server_ca", "No effect: the address is not https.")]
    assert "holds no key" in noted(tmp_path, server_key_env="MY_KEY")[0][1]
    assert noted(tmp_path, {"MY_KEY": "k"}, server_key_env="MY_KEY") == []
