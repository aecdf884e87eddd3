"""Addresses of servers as people write them, and the keys for them."""

from __future__ import annotations

import pytest

from modules.core.errors import OptionError
from modules.engines.served.target import Target, normalized_url


def test_an_address_has_one_form(subtests: pytest.Subtests) -> None:
    for written, url in {
        "127.0.0.1:8000": "http://127.0.0.1:8000",
        " HTTP://GPU.lan:80/v1/ ": "http://gpu.lan",
        "https://host:443/api/v1": "https://host/api",
        "http://[::1]:8080/": "http://[::1]:8080",
        "localhost": "http://localhost",
        "http://host/v1/chat": "http://host/v1/chat",
    }.items():
        with subtests.test(written=written):
            assert normalized_url(written) == url
            assert normalized_url(url) == url


def test_what_is_no_address_is_refused_without_showing_its_password(subtests: pytest.Subtests) -> None:
    long = "http://host/" + "x" * 2000
    for written in (
        *("", "ftp://host", "file:///etc/passwd", "http://", "http://host:0", "http://host:99999", "http://host:x"),
        *("http://host/?a=b", "http://host/#a", "http://a b", "http://host/a\r\nX: y", "http://[::1", "http://[x:y]"),
        *("http://user:secret@host", "user:secret@host", "http://host\\@other", "http://ho st", "http://höst", long),
    ):
        with subtests.test(written=ascii(written[:40])), pytest.raises(OptionError, match="server_url") as error:
            normalized_url(written)
        assert "secret" not in str(error.value)


def test_a_target_names_its_origin_and_hides_its_key() -> None:
    target = Target.parse("https://host:8443/api/v1", key="sk-secret")
    assert (target.origin, target.authority, target.host, target.port) == (
        "https://host:8443",
        "host:8443",
        "host",
        8443,
    )
    assert target.path("/v1/models") == "/api/v1/models"
    assert "secret" not in repr(target)
    assert Target(socket="/run/vllm.sock").origin == "unix:/run/vllm.sock"
    with pytest.raises(OptionError, match="server_key_env") as error:
        Target.parse("http://host", key="secret\nX-Other: 1")
    assert "secret" not in str(error.value)
