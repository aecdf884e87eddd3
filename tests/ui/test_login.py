"""The login of the page, in front of a small application."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from modules import ui
from modules.config.credentials import ApiKey, Credentials
from modules.system.guess_limiter import GuessLimiter
from modules.ui.login import LoginGuard, Sessions
from server import open_warning

KEY_ONLY = Credentials(keys=(ApiKey("the key"),))
USERS = Credentials(keys=(ApiKey("the key"),), logins=(("me", "päss"),))


async def page(request: Request) -> PlainTextResponse:
    return PlainTextResponse(f"page {request.url.path}")


def client(credentials: Credentials, guesses: GuessLimiter | None = None) -> TestClient:
    app = Starlette(routes=[Route("/{path:path}", page, methods=["GET", "POST"])])
    guard = LoginGuard(app, credentials, guesses or GuessLimiter(), lambda request: "en")
    return TestClient(guard, headers={"Accept": "text/html"})


@pytest.fixture
def browser() -> Iterator[TestClient]:
    with client(KEY_ONLY) as browser:
        yield browser


def log_in(browser: TestClient, password: str, **fields: str) -> str:
    return browser.post("/login", data={"password": password, **fields}).text


def test_the_key_opens_the_pages_of_both_languages(browser: TestClient) -> None:
    first = browser.get("/zh/")
    assert first.status_code == 401 and "API key" in first.text and "User name" not in first.text
    assert log_in(browser, "the key", next="/zh/") == "page /zh/"
    assert browser.get("/en/").text == "page /en/"
    assert browser.post("/en/gradio_api/queue/join").text == "page /en/gradio_api/queue/join"


@pytest.mark.parametrize(
    "path", ["/", "/zh/", "/zh/config", "/en/gradio_api/upload", "/status/en", "/language/zh", "/v1x"]
)
def test_without_a_login_nothing_of_the_page_is_answered(browser: TestClient, path: str) -> None:
    assert browser.get(path).status_code == browser.post(path).status_code == 401
    assert browser.get(path, headers={"Accept": "*/*"}).json() == {"detail": "Not authenticated"}


@pytest.mark.parametrize("path", ["/healthz", "/favicon.ico", "/v1/models"])
def test_the_health_check_and_the_api_ask_for_no_login(browser: TestClient, path: str) -> None:
    assert browser.get(path).text == f"page {path}"


def test_a_web_socket_is_refused_with_a_login_as_well(browser: TestClient) -> None:
    """The page uses none."""
    log_in(browser, "the key")
    with pytest.raises(WebSocketDisconnect) as closed, browser.websocket_connect("/en/queue"):
        pass
    assert closed.value.code == 1008


def test_users_log_in_with_their_password_not_with_the_key() -> None:
    with client(USERS) as browser:
        assert "Wrong user name or password" in log_in(browser, "the key", username="me")
        assert "Wrong user name or password" in log_in(browser, "päss", username="you")
        assert log_in(browser, "päss", username="me") == "page /"


def test_logging_out_ends_the_session(browser: TestClient) -> None:
    log_in(browser, "the key")
    stolen = dict(browser.cookies)
    assert "API key" in browser.get("/logout").text
    browser.cookies.update(stolen)
    assert browser.get("/en/").status_code == 401


def test_after_ten_wrong_keys_the_right_one_must_wait_as_well() -> None:
    now = [0.0]
    with client(KEY_ONLY, GuessLimiter(lambda: now[0])) as browser:
        for _ in range(10):
            assert "Wrong API key" in log_in(browser, "guess")
        refused = browser.post("/login", data={"password": "the key"})
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        now[0] = 1.5
        assert log_in(browser, "the key") == "page /"


def test_the_form_leads_to_our_own_pages_only(browser: TestClient) -> None:
    answer = browser.post("/login", data={"password": "the key", "next": "//evil.example/zh"}, follow_redirects=False)
    assert answer.headers["location"] == "/"
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie and "samesite=lax" in cookie


def test_the_form_quotes_nothing_of_the_address(browser: TestClient) -> None:
    assert "evil" not in browser.get('/"><script>evil</script>').text


def test_a_large_form_is_refused(browser: TestClient) -> None:
    assert browser.post("/login", data={"password": "x" * 10_000}).status_code == 413


def test_sessions_end_and_their_number_is_bounded() -> None:
    now = [0.0]
    sessions = Sessions(lambda: now[0])
    first, *_, last = [sessions.create("") for _ in range(1001)]
    assert sessions.user(first) is None and sessions.user(last) == "" and sessions.user("") is None
    now[0] = 31 * 86400
    assert sessions.user(last) is None


# -- when a login is asked for -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("credentials", "multi_user", "guarded", "warned"),
    [
        (Credentials(), False, False, "anyone on the network can use this server"),
        (KEY_ONLY, False, True, ""),
        (USERS, False, True, ""),
        (KEY_ONLY, True, False, "anyone on the network can chat"),
        (USERS, True, True, ""),
    ],
)
def test_the_page_asks_for_a_login_or_the_server_warns(
    credentials: Credentials, multi_user: bool, guarded: bool, warned: str
) -> None:
    app, server = SimpleNamespace(credentials=credentials, guesses=GuessLimiter()), Starlette()
    app.flags = SimpleNamespace(on=lambda flag: multi_user and flag == "multi_user")
    assert isinstance(ui.protect(server, app), LoginGuard) == guarded
    warning = open_warning(app)
    assert warned in warning["en"] if warned else warning is None


def test_the_language_of_the_settings_outranks_that_of_the_browser() -> None:
    def preferred(setting: str, **headers: str) -> str:
        lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
        return ui.preferred_language(Request({"type": "http", "headers": lines}), setting)

    assert preferred("zh", accept_language="en") == "zh"
    assert preferred("zh", cookie="tx-language=en") == "en"
    assert (preferred("auto", accept_language="fr, zh-CN;q=0.5"), preferred("auto")) == ("zh", "en")
