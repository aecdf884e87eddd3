"""Check the API key of a request or, without a key, one of the UI's logins."""

from __future__ import annotations

import base64
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from modules.api.errors import error_response
from modules.config.flags import Flags
from modules.core.errors import Words

_NO_KEY: Words = {
    "en": "This API requires a key: send it as `Authorization: Bearer KEY`.",
    "zh": "此 API 需要密钥：请在请求头中发送 Authorization: Bearer 密钥。",
}
_NO_LOGIN: Words = {
    "en": "This API requires a login: send user name and password by HTTP Basic authentication.",
    "zh": "此 API 需要登录：请使用 HTTP Basic 认证发送用户名和密码。",
}


class AuthMiddleware:
    """Pass on requests with `--api-key`, or else with a login of `--gradio-auth`, if either is set; answer others 401.

    It covers everything under /v1, so that a client without the key does not even learn which endpoints exist.
    """

    def __init__(self, app: ASGIApp, flags: Flags) -> None:
        self._app = app
        key, logins = flags.text("api_key"), flags.text("gradio_auth")
        self._scheme = b"bearer" if key else b"basic"
        self._accepted = [key.encode()] if key else [base64.b64encode(login.encode()) for login in logins.split(",")]
        self._open = not key and not logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._open or self._is_authorized(scope):
            await self._app(scope, receive, send)
        else:
            await self._send_unauthorized(scope, receive, send)

    def _is_authorized(self, scope: Scope) -> bool:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, secret = sent.partition(b" ")
        # All comparisons are made, each in constant time, so that timing reveals nothing about the secret.
        matches = [hmac.compare_digest(secret.strip(), accepted) for accepted in self._accepted]
        return scheme.lower() == self._scheme and any(matches)

    async def _send_unauthorized(self, scope: Scope, receive: Receive, send: Send) -> None:
        words, code = (_NO_KEY, "invalid_api_key") if self._scheme == b"bearer" else (_NO_LOGIN, "invalid_login")
        challenge = "Bearer" if self._scheme == b"bearer" else 'Basic realm="API", charset="UTF-8"'
        response = error_response(Headers(scope=scope), 401, code, words, {"WWW-Authenticate": challenge})
        await response(scope, receive, send)
