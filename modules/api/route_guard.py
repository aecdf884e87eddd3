"""Refuse requests that have passed this program before: see `core.request_route`."""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from modules.api.error_shapes import anthropic_error, speaks_anthropic
from modules.api.errors import error_body, json_response, language_of
from modules.core import request_route
from modules.core.server_errors import RequestLoops

_NAME = request_route.HEADER.lower().encode()


class RouteGuard:
    """Remember which programs a request has passed while it is served, and answer 508 where that is a loop."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        value = next((value for name, value in scope.get("headers", ()) if name == _NAME), None)
        if value is None:
            await self._app(scope, receive, send)
            return
        try:
            programs = request_route.parse(value.decode("latin-1"))
        except RequestLoops as error:
            language = language_of(Headers(scope=scope))
            message = error.say_elsewhere(language)
            body = anthropic_error(message, error.status) if speaks_anthropic(scope) else error_body(error, language)
            await json_response(body, error.status)(scope, receive, send)
            return
        with request_route.passing(programs):
            await self._app(scope, receive, send)
