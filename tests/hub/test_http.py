"""Redirects that are followed, and hosts that receive the access token."""

from __future__ import annotations

import logging
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from modules.hub.access_token import AccessToken
from modules.hub.client import HubClient
from modules.hub.connections import ConnectionPool
from modules.hub.endpoint_url import HF_MIRROR, HUGGING_FACE
from modules.hub.errors import MirrorUnreachable, NotAHub, RedirectUnreachable
from modules.hub.file_source import HubFileSource
from modules.hub.http import HttpClient, Link
from tests.support.hub_reading import BIG, REPO, find_file, large_file, read_body
from tests.support.hub_server import HubServer
from tests.support.socks_proxy import socks_proxy


def test_a_redirect_to_another_hub_works(served: HubServer, hub: HubClient, source: HubFileSource) -> None:
    """Spec test 17: hf-mirror.com responds with 308 for files that it has not cached."""
    with HubServer() as other_hub:
        commit = other_hub.add(REPO, {"config.json": b'{"a": 1}', "empty.txt": b"", "sub/big one.bin": BIG})
        target = f"{other_hub.url}/{REPO}/resolve/{commit}/sub/big%20one.bin"
        served.fault("/resolve/", status=308, redirect=target)
        assert read_body(source.open(large_file(hub), 7, 77)) == BIG[7:77]
        assert read_body(source.open(large_file(hub), 8, 88)) == BIG[8:88]
        assert [request.origin for request in other_hub.log] == ["hub", "cdn", "cdn"]


def test_a_redirect_to_an_unreachable_host_names_both_hosts(
    served: HubServer, hub: HubClient, source: HubFileSource, free_port: int
) -> None:
    served.fault("/resolve/", status=308, redirect=f"http://127.0.0.1:{free_port}/x")
    with pytest.raises(RedirectUnreachable) as caught:
        source.open(large_file(hub), 0, 5)
    assert (caught.value.host, caught.value.target) == (hub.host, f"127.0.0.1:{free_port}")


def test_a_redirected_list_works(served: HubServer, hub: HubClient) -> None:
    commit = served.repos[REPO].branches["main"]
    served.fault("/revision/main", status=307, redirect=f"/api/models/{REPO}/revision/{commit}")
    assert hub.resolve_commit(REPO, "main") == commit


@pytest.mark.parametrize(
    "target",
    [
        *("file:///etc/passwd", "ftp://example.com/x", "gopher://127.0.0.1/", "data:text/plain,x", "javascript:1"),
        *("http://[::1", "http://", "https:///x", "http://127.0.0.1:99999/x", "//:80/x", "http://a..example/x"),
    ],
)
def test_only_redirects_to_web_servers_are_followed(
    served: HubServer, hub: HubClient, source: HubFileSource, target: str
) -> None:
    served.fault("/resolve/", redirect=target)
    with pytest.raises(NotAHub):
        source.open(large_file(hub), 0, 5)


PUBLIC = "https://hf-mirror.com/x"


REDIRECTS = [
    (PUBLIC, "http://cdn.hf-mirror.com/x", "https to http"),
    (PUBLIC, "https://127.0.0.1/x", "local network"),
    (PUBLIC, "https://localhost:8080/x", "local network"),
    (PUBLIC, "https://[::1]/x", "local network"),
    (PUBLIC, "https://192.168.0.1/x", "local network"),
    (PUBLIC, "https://169.254.169.254/latest/meta-data", "local network"),
    (PUBLIC, "https://2130706433/x", "local network"),
    (PUBLIC, "file:///etc/passwd", "file:"),
    (PUBLIC, "//[::1]/x", "local network"),
]


def test_a_redirect_of_a_public_mirror_stays_public_and_encrypted(subtests: pytest.Subtests) -> None:
    """Spec test 13. A redirect is checked before its target is contacted."""
    for start, target, message in REDIRECTS:
        with subtests.test(target=target), pytest.raises(NotAHub, match=message):
            HttpClient(HF_MIRROR, None, ConnectionPool())._redirected(Link(start), target)


@pytest.mark.parametrize(
    ("hosts", "start", "target", "authorized"),
    [
        ({"huggingface.co"}, f"{HF_MIRROR}/x", f"{HUGGING_FACE}/x", True),
        ({"hf-mirror.com"}, f"{HF_MIRROR}/x", f"{HUGGING_FACE}/x", False),
        ({"hf-mirror.com"}, f"{HF_MIRROR}/x", "/y", True),
        ({"hf-mirror.com", "8.8.8.8"}, f"{HF_MIRROR}/x", "https://8.8.8.8/x", False),
        ({"huggingface.co"}, "https://8.8.8.8/x", f"{HUGGING_FACE}/x", False),
    ],
)
def test_a_redirect_keeps_the_token_only_for_selected_hosts(
    hosts: set[str], start: str, target: str, authorized: bool
) -> None:
    client = HttpClient(HF_MIRROR, AccessToken("hf_secret", frozenset(hosts)), ConnectionPool())
    link = Link(start, authorized=start.startswith(HF_MIRROR) and "hf-mirror.com" in hosts)
    assert client._redirected(link, target).authorized is authorized


def test_the_body_of_a_redirect_is_not_read(served: HubServer, hub: HubClient, source: HubFileSource) -> None:
    served.fault("/resolve/", redirect=f"/{REPO}/resolve/main/config.json", times=1, length=1 << 40)
    assert read_body(source.open(find_file(hub.repository(REPO, "main"), "config.json"), 1, 4)) == b'"a"'


def test_at_most_six_redirects_are_followed(served: HubServer, hub: HubClient, source: HubFileSource) -> None:
    served.fault("/resolve/", redirect=f"{served.url}/{REPO}/resolve/again")
    with pytest.raises(NotAHub, match="redirects"):
        source.open(large_file(hub), 0, 5)
    assert len(served.requests("/resolve/")) == 7


def test_the_token_is_sent_only_to_its_hosts(served: HubServer, caplog: pytest.LogCaptureFixture) -> None:
    """Spec test 15, client side: the selected mirror gets the token, its CDN and other redirect targets do not."""
    caplog.set_level(logging.DEBUG)
    with HubServer() as other_hub:
        commit = other_hub.add(REPO, {"config.json": b'{"a": 1}'})
        hub = HubClient(
            served.url, AccessToken("hf_secret", frozenset({served.url.removeprefix("http://"), "huggingface.co"}))
        )
        repository = hub.repository(REPO, "main")
        source = hub.source(repository)
        served.fault("config", redirect=f"{other_hub.url}/{REPO}/resolve/{commit}/config.json")
        for file in repository.files:
            read_body(source.open(file, 0, file.size))
        read_body(source.open(find_file(repository, "sub/big one.bin"), 5, 10))
        assert {request.authorization for request in served.requests(origin="hub")} == {"Bearer hf_secret"}
        assert {request.authorization for request in [*served.requests(origin="cdn"), *other_hub.log]} == {""}
    assert "hf_secret" not in caplog.text + "".join(request.path for request in served.log)


def test_a_mirror_that_is_not_selected_gets_no_token(served: HubServer) -> None:
    hub = HubClient(served.url, AccessToken("hf_secret", frozenset({"huggingface.co", "127.0.0.1"})))
    repository = hub.repository(REPO, "main")
    read_body(hub.source(repository).open(repository.files[0], 0, 1))
    assert {request.authorization for request in served.log} == {""}


def test_a_password_file_is_not_read(served: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    HubClient(served.url).repository(REPO, "main")
    HubClient(served.url, AccessToken("hf_secret", frozenset({served.url.removeprefix("http://")}))).repository(
        REPO, "main"
    )
    assert {request.authorization for request in served.log} == {"", "Bearer hf_secret"}


def test_an_error_does_not_show_the_token(served: HubServer) -> None:
    hub = HubClient(served.url, AccessToken("hf_secret", frozenset({served.url.removeprefix("http://")})))
    served.fault("/revision/", reset_after=0)
    with pytest.raises(MirrorUnreachable) as caught:
        hub.resolve_commit(REPO, "main")
    assert "hf_secret" not in repr(caught.value) + repr(caught.value.__cause__) + caught.value.say("zh")


def test_the_proxy_of_the_environment_is_used(served: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", served.url)  # Requests to a proxy contain the full URL.
    monkeypatch.delenv("no_proxy", raising=False)
    assert HubClient("http://mirror.example").resolve_commit(REPO, "main") == served.repos[REPO].branches["main"]
    assert served.log[0].path == f"http://mirror.example/api/models/{REPO}/revision/main"


@pytest.mark.parametrize("scheme", ["socks5h", "socks"])
def test_a_socks_proxy_of_the_environment_is_used(
    scheme: str, served: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = urlsplit(served.url)
    monkeypatch.delenv("no_proxy", raising=False)
    with socks_proxy((str(url.hostname), int(url.port or 0))) as (port, asked):
        monkeypatch.setenv("all_proxy", f"{scheme}://127.0.0.1:{port}")
        assert HubClient("http://mirror.example").resolve_commit(REPO, "main") == served.repos[REPO].branches["main"]
    assert asked == ["mirror.example"]
