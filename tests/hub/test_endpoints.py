"""The list of mirrors, what is inside of a network, and where the access token may go."""

from __future__ import annotations

import pytest

from modules.hub.endpoints import HUGGING_FACE, MIRROR, Token, endpoint, endpoints, host, is_inside, origin
from modules.hub.errors import BadEndpoint, BadToken

HF = f"{HUGGING_FACE}/user/model/resolve/main/x"
ALPHA = "https://alpha.hf-mirror.com"


def test_without_a_wish_the_mirror_comes_first() -> None:
    assert endpoints() == (MIRROR, HUGGING_FACE)


def test_the_flag_comes_before_the_environment_and_the_settings() -> None:
    wished = endpoints(HUGGING_FACE, "https://one.example", [f"{ALPHA}/", ALPHA])
    assert wished == (HUGGING_FACE, "https://one.example", ALPHA, MIRROR)
    assert endpoints("", "", [ALPHA])[0] == ALPHA


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        (" https://hf-mirror.com/ ", "https://hf-mirror.com"),
        ("hf-mirror.com", "https://hf-mirror.com"),
        ("HTTPS://HF-Mirror.com:443", "https://hf-mirror.com"),
        ("http://localhost:8090", "http://localhost:8090"),
        ("http://[::1]:80/hf/", "http://[::1]/hf"),
        ("https://mirror.example/a/b-c.d_e~f", "https://mirror.example/a/b-c.d_e~f"),
    ],
)
def test_an_endpoint_is_written_in_one_way(text: str, plain: str) -> None:
    assert endpoint(text) == plain


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
                endpoint(text)
            assert "secret" not in caught.value.say("en") + caught.value.say("zh")


def test_a_bad_wish_is_told_wherever_it_comes_from() -> None:
    for wish in ({"flag": "x:y"}, {"environment": "ftp://x"}, {"settings": ["https://a@b"]}):
        with pytest.raises(BadEndpoint):
            endpoints(**wish)  # type: ignore[arg-type]


def test_servers_are_told_apart_as_browsers_do() -> None:
    assert origin("https://A.example:443/x?y") == "https://a.example" == origin("https://a.example.")
    assert origin("http://a.example") != origin("https://a.example") != origin("https://a.example:444")
    assert host("http://127.0.0.1:80/x") == "127.0.0.1" and host("http://[::1]:81") == "[::1]:81"


INSIDE = [
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


def test_an_address_of_this_machine_or_network_is_inside(subtests: pytest.Subtests) -> None:
    for name in INSIDE:
        with subtests.test(name=name):
            assert is_inside(name)


@pytest.mark.parametrize("name", ["8.8.8.8", "2606:4700::1", "198.18.0.7", "172.32.0.1", "::ffff:8.8.8.8"])
def test_any_other_is_not_and_neither_is_a_proxys_stand_in(name: str) -> None:
    assert not is_inside(name)


def test_a_name_is_known_by_its_address_only_if_it_may_be_asked() -> None:
    assert not is_inside("no-such-host.invalid")
    assert not is_inside("no-such-host.invalid", ask=False)


TOKEN_TARGETS: list[tuple[list[str], str, bool]] = [
    (["huggingface.co"], HF, True),
    (["huggingface.co"], "https://huggingface.co:443/x", True),
    (["huggingface.co"], "http://huggingface.co/x", False),
    (["huggingface.co"], "https://huggingface.co:444/x", False),
    (["huggingface.co"], "https://cdn.huggingface.co/x", False),
    (["huggingface.co"], "https://huggingface.co.evil.example/x", False),
    (["huggingface.co"], "https://huggingface.co@evil.example/x", False),
    (["huggingface.co"], "https://hf-mirror.com/x", False),
    (["hf-mirror.com"], "https://hf-mirror.com/x", True),
    ([], HF, False),
    (["127.0.0.1:8000"], "http://127.0.0.1:8000/x", True),
    (["localhost:8000"], "http://localhost:8000/x", True),
    (["127.0.0.1:8000"], "http://127.0.0.1:8001/x", False),
    (["192.168.0.2:80", "192.168.0.2"], "http://192.168.0.2/x", False),
    (["evil.localhost"], "http://evil.localhost/x", False),
]


def test_the_token_is_sent_to_selected_hosts_only(subtests: pytest.Subtests) -> None:
    for hosts, url, goes in TOKEN_TARGETS:
        with subtests.test(hosts=hosts, url=url):
            assert Token("hf_secret", frozenset(hosts)).goes_to(url) is goes


def test_along_a_redirect_it_goes_to_hugging_face_alone() -> None:
    both = Token("hf_secret", frozenset({"huggingface.co", "hf-mirror.com", "alpha.hf-mirror.com"}))
    assert both.follows(f"{MIRROR}/a", f"{MIRROR}/b")
    assert both.follows(f"{MIRROR}/a", HF)
    assert not both.follows(HF, f"{MIRROR}/a")
    assert not both.follows(f"{MIRROR}/a", f"{ALPHA}/a")
    assert not Token("hf_secret", frozenset({"hf-mirror.com"})).follows(f"{MIRROR}/a", HF)


def test_the_token_does_not_show() -> None:
    token = Token("hf_secret", frozenset({"huggingface.co"}))
    assert "hf_secret" not in f"{token} {token!r} {[token]}"
    assert token.header == {"Authorization": "Bearer hf_secret"}


@pytest.mark.parametrize("secret", ["", "a b", "a\r\nX: y", "令牌", " hf_x"])
def test_what_is_no_token_is_refused_without_showing_it(secret: str) -> None:
    with pytest.raises(BadToken) as caught:
        Token(secret)
    assert not secret or secret not in caught.value.say("en")
