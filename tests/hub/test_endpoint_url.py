"""Normalization of endpoint URLs, their origins, and private networks."""

from __future__ import annotations

import socket

import pytest

from modules.hub.endpoint_url import (
    HUGGING_FACE,
    host_of,
    is_private_host,
    origin_of,
    parse_endpoint,
    parse_endpoints,
)
from modules.hub.errors import BadEndpoint

ALPHA = "https://alpha.hf-mirror.com"


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (" https://hf-mirror.com/ ", "https://hf-mirror.com"),
        ("hf-mirror.com", "https://hf-mirror.com"),
        ("HTTPS://HF-Mirror.com:443", "https://hf-mirror.com"),
        ("http://localhost:8090", "http://localhost:8090"),
        ("http://[::1]:80/hf/", "http://[::1]/hf"),
        ("https://mirror.example/a/b-c.d_e~f", "https://mirror.example/a/b-c.d_e~f"),
    ],
)
def test_an_endpoint_is_normalized(text: str, normal: str) -> None:
    assert parse_endpoint(text) == normal


INVALID = [
    *("", "https://", "ftp://mirror.example", "file:///etc", "https://mirror.example?x=1", "https://a b.example"),
    *("https://me:secret@mirror.example", "https://mirror.example#x", "https://mirror.example/a/../b"),
    *("https://mirror.example:99999", "https://mirror.example:0", "https://-x.example", "https://[::1", "a\nb"),
    *("https://mirror.example/%2e", "javascript:alert(1)", "https://mirror.example//x"),
]


def test_an_invalid_endpoint_is_refused(subtests: pytest.Subtests) -> None:
    for text in INVALID:
        with subtests.test(text=text):
            with pytest.raises(BadEndpoint) as caught:
                parse_endpoint(text)
            assert "secret" not in caught.value.say("en") + caught.value.say("zh")


def test_a_list_of_endpoints_is_parsed_without_duplicates() -> None:
    assert parse_endpoints(f"{HUGGING_FACE}, {ALPHA}/,, {ALPHA}") == (HUGGING_FACE, ALPHA)
    assert parse_endpoints(" ") == ()
    with pytest.raises(BadEndpoint):
        parse_endpoints(f"{ALPHA}, ftp://x")


def test_origins_are_compared_as_browsers_do() -> None:
    assert origin_of("https://A.example:443/x?y") == "https://a.example" == origin_of("https://a.example.")
    assert origin_of("http://a.example") != origin_of("https://a.example") != origin_of("https://a.example:444")
    assert host_of("http://127.0.0.1:80/x") == "127.0.0.1" and host_of("http://[::1]:81") == "[::1]:81"


PRIVATE = [
    *("localhost", "x.localhost", "127.0.0.1", "127.8.9.1", "127.1", "2130706433", "0x7f.1", "0.0.0.0", "10.0.0.1"),
    *(
        "192.168.1.1",
        "172.16.0.1",
        "169.254.169.254",
        "::1",
        "::ffff:127.0.0.1",
        "fe80::1%eth0",
        "fd00::1",
        "100.64.0.1",
    ),
    *("LOCALHOST.", "printer.local", "::", "224.0.0.1", "metadata.google.internal"),
]


def test_addresses_of_this_machine_or_network_are_private(subtests: pytest.Subtests) -> None:
    for name in PRIVATE:
        with subtests.test(name=name):
            assert is_private_host(name)


@pytest.mark.parametrize("name", ["8.8.8.8", "2606:4700::1", "198.18.0.7", "172.32.0.1", "::ffff:8.8.8.8"])
def test_public_addresses_and_fake_ips_of_proxies_are_not_private(name: str) -> None:
    assert not is_private_host(name)


def test_an_unresolvable_name_is_not_private() -> None:
    assert not is_private_host("no-such-host.invalid")
    assert not is_private_host("no-such-host.invalid", resolve=False)


def test_a_name_is_private_if_one_of_its_addresses_is(monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = ["8.8.8.8", "2606:4700::1"]

    def resolve(name: str, *_: object, **__: object) -> list[tuple[object, ...]]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    assert not is_private_host("mirror.example")
    addresses.append("fe80::1%eth0")
    assert is_private_host("mirror.example") and not is_private_host("mirror.example", resolve=False)
