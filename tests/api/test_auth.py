"""Access to the API by key or login, in front of a small application; more in routes/test_models.py."""

from __future__ import annotations

import logging

import pytest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from modules.api.auth import AuthMiddleware
from modules.config.credentials import Credentials
from modules.system.guess_limiter import GuessLimiter


def client(credentials: Credentials, guesses: GuessLimiter) -> TestClient:
    return TestClient(AuthMiddleware(PlainTextResponse("answered"), credentials, guesses))


def test_a_guesser_of_keys_is_answered_429_for_a_growing_time(caplog: pytest.LogCaptureFixture) -> None:
    now = [0.0]
    http = client(Credentials(keys=("key",)), GuessLimiter(lambda: now[0]))
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
    http = client(Credentials(keys=("key",)), GuessLimiter(lambda: 0.0))
    assert {http.get("/").status_code for _ in range(30)} == {401}
    assert http.get("/", headers={"Authorization": "Bearer key"}).text == "answered"


@pytest.mark.parametrize("sent", ["Basic", "Basic *", "Basic //8=", "Bearer bWU6c2VjcmV0", "Basic bWU6c2VjcmV"])
def test_a_login_that_is_no_login_is_refused(sent: str) -> None:
    http = client(Credentials(logins=(("me", "secret"),)), GuessLimiter(lambda: 0.0))
    assert http.get("/", headers={"Authorization": sent}).status_code == 401
    assert http.get("/", headers={"Authorization": "basic bWU6c2VjcmV0"}).text == "answered"
