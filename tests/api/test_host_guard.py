"""The host guard refuses requests from other web sites, and forbids pages to load anything from other hosts."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI, Response, WebSocket
from starlette.responses import StreamingResponse
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from modules.api.host_guard import LOOPBACK, HostGuard, allowed_hosts, allowed_origins
from modules.config import flags
from modules.core.errors import CommandLineError
from tests.support.serving import NO_AUTHORITIES, serving


def application() -> FastAPI:
    app = FastAPI()

    @app.api_route("/", methods=["GET", "POST"])
    def page() -> Response:
        return Response("hello", media_type="text/html", headers={"X-Custom": "kept"})

    @app.get("/stream")
    def stream() -> Response:
        return StreamingResponse(iter([b"one", b"two", b"three"]))

    @app.websocket("/socket")
    async def greet(websocket: WebSocket) -> None:
        await websocket.accept()
        await websocket.send_text("hello")
        await websocket.close()

    return app


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with serving(HostGuard(application(), LOOPBACK)) as address:
        yield address


def status(address: str, method: str = "GET", **headers: str) -> int:
    hyphenated = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.request(method, address, headers=hyphenated, verify=NO_AUTHORITIES).status_code


def test_a_program_that_uses_the_servers_address_is_answered(address: str) -> None:
    assert status(address) == status(address, "POST") == 200


@pytest.mark.parametrize("host", ["localhost", "LocalHost:7860", "127.0.0.1:1", "[::1]", "[::1]:7860"])
def test_all_allowed_hosts_are_answered(address: str, host: str) -> None:
    assert status(address, Host=host) == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:7860",
        "localhost.evil.example",
        "192.168.1.5",
        "localhost:x",
        "me@localhost",
        "::1",
        "",
    ],
)
def test_an_unknown_host_is_refused(address: str, host: str) -> None:
    assert status(address, Host=host) == 403


def test_a_refusal_states_the_reason_in_both_languages(address: str) -> None:
    refusal = httpx.get(address, headers={"Host": "evil.example"})
    assert refusal.headers["content-type"] == "text/plain; charset=utf-8"
    assert "Unknown host name" in refusal.text
    assert "主机名" in refusal.text


def test_requests_from_the_servers_own_page_are_answered(address: str) -> None:
    assert status(address, "POST", Origin=address, Sec_Fetch_Site="same-origin", Sec_Fetch_Mode="cors") == 200


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://127.0.0.1", "http://127.0.0.1:1", "http://localhost:7860", "file://"],
)
def test_a_foreign_origin_is_refused(address: str, origin: str) -> None:
    assert status(address, "POST", Origin=origin) == 403
    assert status(address, Origin=origin) == 403


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_a_cross_site_fetch_is_refused_even_without_an_origin(address: str, site: str) -> None:
    assert status(address, Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors", Sec_Fetch_Dest="image") == 403
    assert status(address, "POST", Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate") == 403


def test_another_site_may_link_to_the_page_but_not_frame_it(address: str) -> None:
    navigation = {"Sec_Fetch_Site": "cross-site", "Sec_Fetch_Mode": "navigate"}
    assert status(address, Sec_Fetch_Dest="document", **navigation) == 200
    assert status(address, Sec_Fetch_Dest="iframe", **navigation) == 403


def test_an_address_typed_by_the_user_opens(address: str) -> None:
    assert status(address, Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate", Sec_Fetch_Dest="document") == 200


def test_every_response_has_a_content_security_policy(address: str) -> None:
    headers = httpx.get(address).headers
    assert headers["x-custom"] == "kept"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "same-origin"
    rules = dict(rule.strip().split(" ", 1) for rule in headers["content-security-policy"].split(";"))
    assert rules["default-src"] == "'self'"
    assert rules["object-src"] == "'none'"
    host = address.removeprefix("http://")
    assert rules["connect-src"] == f"'self' ws://{host} wss://{host}"
    allowed = " ".join(rules.values()).replace(host, "")
    assert not re.search(r"\*|https?:", allowed)


def test_a_stream_is_passed_on_unchanged(address: str) -> None:
    assert httpx.get(f"{address}/stream").text == "onetwothree"


def test_a_web_socket_is_checked_too() -> None:
    client = TestClient(HostGuard(application(), LOOPBACK), base_url="http://localhost:7860")
    with client.websocket_connect(
        "ws://localhost:7860/socket", headers={"Origin": "http://localhost:7860"}
    ) as connection:
        assert connection.receive_text() == "hello"
    for headers in ({"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        with (
            pytest.raises(WebSocketDisconnect),
            client.websocket_connect("ws://localhost:7860/socket", headers=headers),
        ):
            pass


# -- allowed host names -----------------------------------------------------------------------------------------------


def test_a_local_server_allows_the_loopback_names() -> None:
    assert allowed_hosts(flags.parse([])) == LOOPBACK
    assert allowed_hosts(flags.parse(["--listen-host", "127.0.0.2"])) == LOOPBACK | {"127.0.0.2"}


def test_the_names_of_a_reverse_proxy_are_allowed_if_they_are_names(subtests: pytest.Subtests) -> None:
    hosts = allowed_hosts(flags.parse(["--public-host", "LLM.example.com, chat.example.com:8443,"]))
    assert hosts == LOOPBACK | {"llm.example.com", "chat.example.com"}
    for text in ("https://llm.example.com", "llm.example.com/page", "a b", "*@x"):
        with subtests.test(text), pytest.raises(CommandLineError):
            allowed_hosts(flags.parse(["--public-host", text]))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--listen"],
        ["--listen-host", "0.0.0.0"],
        ["--listen", "--listen-host", "Box.lan"],
        ["--listen-host", "Box.lan"],
    ],
)
def test_a_network_server_allows_this_machines_names_and_addresses(arguments: list[str]) -> None:
    hosts = allowed_hosts(flags.parse(arguments))
    hostname = socket.gethostname().lower()
    assert {hostname, f"{hostname.partition('.')[0]}.local"} | LOOPBACK <= hosts
    assert arguments[-1].lower() in {*hosts, "--listen"}


def test_a_machine_whose_name_has_no_address_is_allowed_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise socket.gaierror("the name is not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    hosts = allowed_hosts(flags.parse(["--listen"]))
    assert {socket.gethostname().lower(), *LOOPBACK} <= hosts


def test_the_outgoing_address_is_allowed() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing
        except OSError:
            pytest.skip("this machine has no network")
        assert probe.getsockname()[0] in allowed_hosts(flags.parse(["--listen"]))


# -- the API and pages of other sites ----------------------------------------------------------------------------------


def test_pages_of_allowed_origins_may_call_the_api_alone() -> None:
    app = FastAPI()

    @app.get("/v1/models")
    @app.get("/props")
    @app.get("/models/list")
    @app.get("/chat/list")
    def answer() -> str:
        return "answer"

    http = TestClient(HostGuard(app, LOOPBACK, frozenset({"https://app.example"})), base_url="http://localhost")
    friend = {"Origin": "https://app.example", "Sec-Fetch-Site": "cross-site"}
    assert http.get("/v1/models", headers=friend).status_code == 200
    assert http.get("/props", headers=friend).status_code == 200
    for page in ("/chat/list", "/models/list"):
        assert http.get(page, headers=friend).status_code == 403
    for origin in ("https://app.example.evil", "http://app.example", "https://app.example:8443", "null"):
        assert http.get("/v1/models", headers={**friend, "Origin": origin}).status_code == 403


def test_origins_are_read_from_the_flag(subtests: pytest.Subtests) -> None:
    def origins(text: str, has_keys: bool = False) -> frozenset[str]:
        return allowed_origins(flags.parse(["--cors-origins", text]), has_keys)

    assert origins(" https://App.example, http://localhost:3000 ") == {"https://app.example", "http://localhost:3000"}
    assert origins("*", has_keys=True) == {"*"}
    for text in ("*", "app.example", "https://app.example/", "https://*.example", "ftp://app.example"):
        with subtests.test(text), pytest.raises(CommandLineError):
            origins(text)
