"""Who may use the API: whoever has the key; without a key, whoever has one of the page's logins."""

from __future__ import annotations

import base64
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from modules.api.errors import refuse
from modules.config.flags import Flags
from modules.core.errors import Words

_NO_KEY: Words = {
    "en": "This API needs its key: send it as `Authorization: Bearer KEY`.",
    "zh": "此 API 需要密钥：请以 Authorization: Bearer 密钥 的形式发送。",
}
_NO_LOGIN: Words = {
    "en": "This API needs a login: send user and password by HTTP Basic authentication.",
    "zh": "此 API 需要登录：请以 HTTP Basic 认证发送用户名和密码。",
}


class Access:
    """Lets through to `app` only requests with `--api-key`, or else with a login of `--gradio-auth`, if either is set.

    It stands before everything under /v1, so that without the key nobody learns even which addresses exist.
    """

    def __init__(self, app: ASGIApp, flags: Flags) -> None:
        self._app = app
        key, logins = flags.text("api_key"), flags.text("gradio_auth")
        self._scheme = b"bearer" if key else b"basic"
        self._accepted = [key.encode()] if key else [base64.b64encode(each.encode()) for each in logins.split(",")]
        self._open = not key and not logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._open or self._admits(scope):
            await self._app(scope, receive, send)
        else:
            await self._refusal(scope, receive, send)

    def _admits(self, scope: Scope) -> bool:
        sent = dict(scope["headers"]).get(b"authorization", b"")
        scheme, _, secret = sent.partition(b" ")
        # Every comparison is made, and each takes the same time whatever was sent.
        matches = [hmac.compare_digest(secret.strip(), accepted) for accepted in self._accepted]
        return scheme.lower() == self._scheme and any(matches)

    async def _refusal(self, scope: Scope, receive: Receive, send: Send) -> None:
        words, code = (_NO_KEY, "invalid_api_key") if self._scheme == b"bearer" else (_NO_LOGIN, "invalid_login")
        challenge = "Bearer" if self._scheme == b"bearer" else 'Basic realm="API", charset="UTF-8"'
        response = refuse(Headers(scope=scope), 401, code, words, {"WWW-Authenticate": challenge})
        await response(scope, receive, send)
