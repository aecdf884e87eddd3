"""Check the API key of a request or, without a key, one of the UI's logins."""

from __future__ import annotations

import base64
import binascii
import math

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from modules.api.errors import OwnersKeyNeeded, error_response
from modules.app import App
from modules.config.credentials import ApiKey, Credentials
from modules.core.errors import OwnerOnly, Words
from modules.system.guess_limiter import GuessLimiter

_NO_KEY: Words = {
    "en": "This API requires a key: send it as `Authorization: Bearer KEY` or `x-api-key: KEY`.",
    "zh": "此 API 需要密钥：请在请求头中发送 Authorization: Bearer 密钥，或 x-api-key: 密钥。",
}
_NO_LOGIN: Words = {
    "en": "This API requires a login: send user name and password by HTTP Basic authentication.",
    "zh": "此 API 需要登录：请使用 HTTP Basic 认证发送用户名和密码。",
}
_TOO_MANY: Words = {
    "en": "Too many wrong attempts from this address: try again in {seconds} s.",
    "zh": "此地址的错误尝试过多，请在 {seconds} 秒后重试。",
}


KEY = "text_studio.api_key"
"""Key of a request's scope: the `ApiKey` that it was sent with; for a login, one without a secret."""


def require_owner(app: App, scope: Scope) -> None:
    """Refuse a request that may only use the models that are loaded.

    Raises OwnersKeyNeeded for a key without that role, and OwnerOnly with --multi-user if there are no keys.
    """
    key: ApiKey | None = scope.get(KEY)
    if key is not None and not key.is_owner:
        raise OwnersKeyNeeded(key.name)
    if not app.credentials.keys:
        app.refuse_guests()


def is_owner(app: App, scope: Scope) -> bool:
    """Whether `require_owner` lets a request pass."""
    try:
        require_owner(app, scope)
    except (OwnersKeyNeeded, OwnerOnly):
        return False
    return True


class AuthMiddleware:
    """Pass on requests with an API key or, if there are no keys, with a login, if there are any; answer others 401.

    It covers the whole API, so that a client without the key does not even learn which endpoints exist. An
    address that guesses is answered 429 for a while.
    """

    def __init__(self, app: ASGIApp, credentials: Credentials, guesses: GuessLimiter) -> None:
        self._app, self._credentials, self._guesses = app, credentials, guesses
        self._scheme = b"bearer" if credentials.keys else b"basic"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._credentials.required:
            await self._app(scope, receive, send)
            return
        address, headers = (scope.get("client") or ("",))[0], Headers(scope=scope)
        sent = self._secret(headers)
        key = self._key(sent) if sent else None
        if sent is not None and (seconds := self._guesses.delay(address)):
            await _too_many(scope, seconds)(scope, receive, send)
        elif key is not None:
            self._guesses.succeeded(address)
            await self._app({**scope, KEY: key}, receive, send)
        else:
            if sent is not None:
                self._guesses.missed(address)
            await self._send_unauthorized(scope, receive, send)

    def _secret(self, headers: Headers) -> bytes | None:
        """Return the secret that was sent, "" if it was sent by another scheme; None if there is none."""
        authorization, key = headers.get("authorization"), headers.get("x-api-key")
        if authorization is None:
            return None if key is None or self._scheme == b"basic" else key.encode("latin-1")
        scheme, _, secret = authorization.encode("latin-1").partition(b" ")
        return secret.strip() if scheme.lower() == self._scheme else b""

    def _key(self, secret: bytes) -> ApiKey | None:
        if self._scheme == b"bearer":
            return self._credentials.key_of(secret)
        try:
            user, _, password = base64.b64decode(secret, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            return None
        return ApiKey("", user) if self._credentials.accept_login(user, password) else None

    async def _send_unauthorized(self, scope: Scope, receive: Receive, send: Send) -> None:
        words, code = (_NO_KEY, "invalid_api_key") if self._scheme == b"bearer" else (_NO_LOGIN, "invalid_login")
        challenge = "Bearer" if self._scheme == b"bearer" else 'Basic realm="API", charset="UTF-8"'
        response = error_response(scope, 401, code, words, {"WWW-Authenticate": challenge})
        await response(scope, receive, send)


def _too_many(scope: Scope, seconds: float) -> Response:
    wait = str(math.ceil(seconds))
    words = {language: text.format(seconds=wait) for language, text in _TOO_MANY.items()}
    return error_response(scope, 429, "too_many_attempts", words, {"Retry-After": wait})
