"""The login of the page: one for both languages, with a user's password or, if there are no users, an API key.

Gradio's own login would be one per mounted page, and would leave the routes beside it open.
"""

from __future__ import annotations

import hashlib
import math
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from html import escape
from http import HTTPStatus
from urllib.parse import parse_qs

from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from modules.config.credentials import Credentials
from modules.core.product import PRODUCT
from modules.system.guess_limiter import GuessLimiter
from modules.ui.locales import translator

SESSION_SECONDS = 30 * 86400.0
MAX_SESSIONS = 1000
LOGIN = "text_studio.login"
"""The key of an ASGI scope under which the name of the user is passed on."""
MAX_FORM_BYTES = 8192
_OPEN = ("/healthz", "/favicon.ico", "/v1")
"""Paths that need no login: the API has its own edge, and the others reveal nothing."""


class Sessions:
    """Who has logged in, by a random token that only the browser knows: a digest of it is kept."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        # When each ends and its user, by digest; the first one ends first.
        self._sessions: OrderedDict[bytes, tuple[float, str]] = OrderedDict()

    def create(self, user: str) -> str:
        """Return the token of a new session; `user` is "" where a key is all that the login asks for."""
        token = secrets.token_urlsafe(32)
        self._sessions[_digest(token)] = (self._clock() + SESSION_SECONDS, user)
        if len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return token

    def user(self, token: str) -> str | None:
        """Return who has logged in with the token, None if nobody has."""
        end, user = self._sessions.get(_digest(token), (0.0, ""))
        return user if end > self._clock() else None

    def remove(self, token: str) -> None:
        self._sessions.pop(_digest(token), None)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()


class LoginGuard:
    """ASGI middleware: pass on requests of who has logged in, show all others a login form, or answer them 401.

    `language` returns the language to greet a visitor in, `is_open` whether a path needs no login beside `_OPEN`.
    """

    def __init__(
        self,
        app: ASGIApp,
        credentials: Credentials,
        guesses: GuessLimiter,
        language: Callable[[Request], str],
        is_open: Callable[[str], bool] | None = None,
    ) -> None:
        self._app, self._credentials, self._guesses, self._language = app, credentials, guesses, language
        self._has_own_guard = is_open or _is_open
        self._sessions = Sessions()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket") or _is_open(scope["path"]) or self._has_own_guard(scope["path"]):
            await self._app(scope, receive, send)
            return
        if scope["type"] == "websocket":  # the page uses none
            await send({"type": "websocket.close", "code": 1008})
            return
        request = Request(scope, receive)
        response = await self._own_answer(request)
        user = self._sessions.user(request.cookies.get(_cookie(scope), ""))
        if response is not None:
            await response(scope, receive, send)
        elif user is not None:
            await self._app({**scope, LOGIN: user}, receive, send)
        else:
            await self._ask(request)(scope, receive, send)

    async def _own_answer(self, request: Request) -> Response | None:
        path = request.url.path.rstrip("/")
        if path == "/login" and request.method == "POST":
            return await self._log_in(request)
        if path == "/logout":
            self._sessions.remove(request.cookies.get(_cookie(request.scope), ""))
            response = _redirect("/")
            response.delete_cookie(_cookie(request.scope))
            return response
        return _redirect("/") if path == "/login" else None

    def _ask(self, request: Request) -> Response:
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return self._form(request, HTTPStatus.UNAUTHORIZED)
        return JSONResponse({"detail": "Not authenticated"}, HTTPStatus.UNAUTHORIZED)

    async def _log_in(self, request: Request) -> Response:
        address = request.client.host if request.client else ""
        if seconds := self._guesses.delay(address):
            return self._form(request, HTTPStatus.TOO_MANY_REQUESTS, "login_delayed", seconds=math.ceil(seconds))
        form = await _read_form(request)
        if form is None:
            return JSONResponse({"detail": "The form is too large."}, HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
        user, password = form.get("username", ""), form.get("password", "")
        if not self._accepts(user, password):
            self._guesses.missed(address)
            return self._form(
                request, HTTPStatus.UNAUTHORIZED, "login_wrong" if self._credentials.logins else "key_wrong"
            )
        self._guesses.succeeded(address)
        response = _redirect(form.get("next", "/"))
        secure = request.url.scheme == "https"
        response.set_cookie(
            _cookie(request.scope),
            self._sessions.create(user if self._credentials.logins else ""),
            int(SESSION_SECONDS),
            httponly=True,
            samesite="lax",
            secure=secure,
        )
        return response

    def _accepts(self, user: str, password: str) -> bool:
        if self._credentials.logins:
            return self._credentials.accept_login(user, password)
        key = self._credentials.key_of(password.encode("utf-8", "surrogatepass"))
        return key is not None and key.is_owner

    def _form(self, request: Request, status: HTTPStatus, error: str = "", **values: object) -> Response:
        language = self._language(request)
        tr = translator(language)
        page = request.url.path if request.url.path.rstrip("/") in _PAGES else "/"
        user = _USER.format(label=escape(tr("user_name"))) if self._credentials.logins else ""
        html = _FORM.format(
            language={"zh": "zh-CN"}.get(language, language),
            title=escape(PRODUCT),
            page=escape(page),
            user=user,
            secret=escape(tr("password" if self._credentials.logins else "api_key")),
            focus="" if user else "autofocus",
            error=f'<p role="alert">{escape(tr(error).format(**values))}</p>' if error else "",
            button=escape(tr("log_in")),
        )
        headers = {"Cache-Control": "no-store"}
        if "seconds" in values:
            headers["Retry-After"] = str(values["seconds"])
        return HTMLResponse(html, status, headers)


_PAGES = ("/zh", "/en")


def _is_open(path: str) -> bool:
    return any(path == start or path.startswith(f"{start}/") for start in _OPEN)


def _redirect(path: str) -> RedirectResponse:
    """Lead to a page of ours, whatever the form says."""
    return RedirectResponse(path if path.rstrip("/") in _PAGES else "/", HTTPStatus.SEE_OTHER)


def _cookie(scope: Scope) -> str:
    """Return the name of the session's cookie. Browsers share cookies among all ports of a host."""
    return f"tx-session-{(scope.get('server') or ('', 0))[1]}"


async def _read_form(request: Request) -> Mapping[str, str] | None:
    """Return the fields of the form; None if it is too large."""
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_FORM_BYTES:
            return None
    fields = parse_qs(body.decode("latin-1"), encoding="utf-8", errors="surrogateescape", max_num_fields=8)
    return {name: values[0] for name, values in fields.items()}


_USER = '<label>{label}<input name="username" autocomplete="username" required autofocus></label>'
_FORM = """<!doctype html><html lang="{language}"><head><meta charset="utf-8"><title>{title}</title>
<meta name="viewport" content="width=device-width, initial-scale=1"><meta name="color-scheme" content="light dark">
<style>
body {{ font: 16px system-ui, "Noto Sans SC", "PingFang SC", "Microsoft YaHei", sans-serif; display: grid;
  place-items: center; min-height: 90vh; margin: 0 }}
form {{ display: grid; gap: 1rem; width: min(20rem, 90vw) }}
h1 {{ font-size: 1.4rem; margin: 0 }}
label {{ display: grid; gap: .3rem }}
input, button {{ font: inherit; padding: .6rem .7rem; border-radius: .5rem; border: 1px solid #8888 }}
button {{ background: #4f46e5; color: #fff; border: 0; cursor: pointer }}
p {{ color: light-dark(#b42318, #f6a39b); margin: 0 }}
</style></head><body><form method="post" action="/login"><h1>{title}</h1>
<input type="hidden" name="next" value="{page}">
{user}<label>{secret}<input name="password" type="password" autocomplete="current-password" required {focus}></label>
{error}<button>{button}</button></form>
<script>document.forms[0].action += location.hash; // the redirect keeps what is to be opened</script></body></html>
"""
