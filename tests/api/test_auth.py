"""Access to the API by key or login, in front of a small application; more in routes/test_models.py."""

from __future__ import annotations

import logging
from base64 import b64encode

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from modules.api.auth import KEY, AuthMiddleware
from modules.config.credentials import ApiKey, Credentials
from modules.system.guess_limiter import GuessLimiter


def client(credentials: Credentials, guesses: GuessLimiter) -> TestClient:
    return TestClient(AuthMiddleware(PlainTextResponse("answered"), credentials, guesses))


def test_a_guesser_of_keys_is_answered_429_for_a_growing_time(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    http = client(Credentials(keys=(ApiKey("key"),)), GuessLimiter(lambda: now[0]))
    with caplog.at_level(logging.WARNING, logger="modules"):
        for number in range(10):
            assert http.get("/", headers={"Authorization": f"Bearer guess{number}"}).status_code == 401
        for wait in (1, 2, 4):
            refused = http.get("/", headers={"Authorization": "Bearer key"})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, str(wait))
            assert refused.json()["error"]["code"] == "too_many_attempts"
            now[0] += wait
            assert http.get("/", headers={"Authorization": "Bearer guess"}).status_code == 401
    assert len(caplog.records) == 1
    now[0] += 10
    assert http.get("/", headers={"Authorization": "Bearer key"}).text == "answered"


def test_requests_without_a_key_are_no_guesses() -> None:
    http = client(Credentials(keys=(ApiKey("key"),)), GuessLimiter(lambda: 0.0))
    assert {http.get("/").status_code for _ in range(30)} == {401}
    assert http.get("/", headers={"Authorization": "Bearer key"}).text == "answered"


@pytest.mark.parametrize("sent", ["Basic", "Basic *", "Basic //8=", "Bearer bWU6c2VjcmV0", "Basic bWU6c2VjcmV"])
def test_a_login_that_is_no_login_is_refused(sent: str) -> None:
    http = client(Credentials(logins=(("me", "secret"),)), GuessLimiter(lambda: 0.0))
    assert http.get("/", headers={"Authorization": sent}).status_code == 401
    assert http.get("/", headers={"Authorization": "basic bWU6c2VjcmV0"}).text == "answered"


def test_a_key_is_taken_from_either_header() -> None:
    http = client(Credentials(keys=(ApiKey("key"), ApiKey("other", "bob"))), GuessLimiter(lambda: 0.0))
    for headers in (
        {"x-api-key": "key"},
        {"Authorization": "Bearer other"},
        {"x-api-key": "no", "Authorization": "Bearer key"},
    ):
        assert http.get("/", headers=headers).text == "answered"
    for headers in ({"x-api-key": "ke"}, {"x-api-key": ""}, {"x-api-key": "key", "Authorization": "Bearer no"}):
        assert http.get("/", headers=headers).status_code == 401


def test_a_request_is_passed_on_with_its_key_or_its_login() -> None:
    seen: list[ApiKey] = []

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope[KEY])
        await PlainTextResponse("answered")(scope, receive, send)

    for credentials, sent in (
        (Credentials(keys=(ApiKey("other", "bob"),)), "Bearer other"),
        (Credentials(logins=(("me", "secret"), ("you", "secret"))), f"Basic {b64encode(b'me:secret').decode()}"),
        (Credentials(logins=(("me", "secret"), ("you", "secret"))), f"Basic {b64encode(b'you:secret').decode()}"),
    ):
        http = TestClient(AuthMiddleware(answer, credentials, GuessLimiter(lambda: 0.0)))
        assert http.get("/", headers={"Authorization": sent}).text == "answered"
    assert seen == [ApiKey("other", "bob"), ApiKey("", "me"), ApiKey("", "you")]


def test_a_login_is_not_replaced_by_the_header_of_keys() -> None:
    http = client(Credentials(logins=(("me", "secret"),)), GuessLimiter(lambda: 0.0))
    assert http.get("/", headers={"x-api-key": "bWU6c2VjcmV0"}).status_code == 401
