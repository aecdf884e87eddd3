"""API keys and logins from flags, files and the environment."""

from __future__ import annotations

from pathlib import Path

import pytest

from modules.config import flags
from modules.config.credentials import KEY_VARIABLE, LOGIN_VARIABLE, ApiKey, Credentials
from modules.core.errors import CommandLineError, OptionError


def credentials(*arguments: str, **environment: str) -> Credentials:
    return Credentials.read(flags.parse(arguments), environment)


def file_with(folder: Path, text: str) -> str:
    path = folder / "secrets"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_without_any_nothing_is_required() -> None:
    assert credentials(OPENAI_API_KEY="of OpenAI") == Credentials()
    assert not Credentials().required


def test_flags_come_before_files_and_files_before_the_environment(tmp_path: Path) -> None:
    environment = {KEY_VARIABLE: "from environment", LOGIN_VARIABLE: "e:e"}
    keys, pairs = file_with(tmp_path, "\nfirst\n  second \n"), tmp_path / "logins"
    pairs.write_text("me:a b\nyou:c\n")
    files = ("--api-key-file", keys, "--gradio-auth-path", str(pairs))
    assert credentials(**environment) == Credentials((ApiKey("from environment"),), (("e", "e"),))
    assert credentials(*files, **environment) == Credentials(
        (ApiKey("first"), ApiKey("second")), (("me", "a b"), ("you", "c"))
    )
    flag = ("--api-key", "typed", "--gradio-auth", "me:typed")
    assert credentials(*files, *flag, **environment) == Credentials((ApiKey("typed"),), (("me", "typed"),))


@pytest.mark.parametrize("flag", ["--api-key-file", "--gradio-auth-path"])
def test_a_server_does_not_start_unprotected_for_a_file_without_secrets(flag: str, tmp_path: Path) -> None:
    with pytest.raises(CommandLineError, match="cannot be read"):
        credentials(flag, str(tmp_path / "missing"))
    with pytest.raises(CommandLineError, match="is empty"):
        credentials(flag, file_with(tmp_path, " \n"))


def test_a_login_without_a_colon_is_an_error_wherever_it_stands(tmp_path: Path) -> None:
    with pytest.raises(OptionError):
        credentials("--gradio-auth-path", file_with(tmp_path, "nocolon"))
    with pytest.raises(OptionError):
        credentials(**{LOGIN_VARIABLE: "nocolon"})


def test_keys_and_logins_match_as_a_whole() -> None:
    both = credentials("--api-key", "密钥", "--gradio-auth", "me:secret")
    assert both.key_of("密钥".encode()) and both.accept_login("me", "secret")
    assert not any([both.key_of(b""), both.key_of("密".encode()), both.accept_login("me", "secre")])
    assert not Credentials().key_of(b"") and not Credentials().accept_login("", "")


def test_a_key_may_have_a_name_and_a_role(subtests: pytest.Subtests) -> None:
    for text, expected in {
        "secret": ApiKey("secret"),
        "alice:secret": ApiKey("secret", "alice"),
        "alice:owner:secret": ApiKey("secret", "alice"),
        "bob:use:secret": ApiKey("secret", "bob", is_owner=False),
        "bob:se:cret": ApiKey("se:cret", "bob"),
        ":se:cret": ApiKey("se:cret"),
    }.items():
        with subtests.test(text):
            assert credentials("--api-key", text).keys == (expected,)


def test_a_named_key_that_is_empty_is_an_error() -> None:
    with pytest.raises(CommandLineError, match="alice"):
        credentials("--api-key", "alice:use:")
