"""The endpoints that generate or count the tokens of a conversation, as routes of Starlette.

FastAPI's own routes take a fifth of the main process's time for a short answer, with 500 of them at once: it compares
the path with all routes twice, and solves dependencies that these endpoints do not have. Its middleware takes another
twentieth (`benchmarks/streams.py`), so that `app.GenerationFirst` passes by it.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from typing import Generic

from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from modules.api.request_body import Body


class _Endpoint(Generic[Body]):
    """An ASGI application that answers all requests. Its errors are answered by the application around it."""

    def __init__(self, schema: type[Body], answer: Callable[[Body, Request], Awaitable[ASGIApp]]) -> None:
        self._schema, self._answer = schema, answer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await self._answer(await read_body(request, self._schema), request)
        await response(scope, receive, send)


def generation_route(path: str, schema: type[Body], answer: Callable[[Body, Request], Awaitable[ASGIApp]]) -> Route:
    """Return the route of POST requests to `path`, which `answer` gets with their bodies."""
    return Route(path, _Endpoint(schema, answer), methods=["POST"])


async def read_body(request: Request, schema: type[Body]) -> Body:
    """Return the body of a request.

    Raises what FastAPI raises for a body that is missing or not JSON, and what `schema` raises.
    """
    body = await request.body()
    if not body:
        raise _unreadable("missing")
    if not _is_json(request.headers.get("content-type", "")):
        raise HTTPException(HTTPStatus.UNSUPPORTED_MEDIA_TYPE)
    try:
        fields = json.loads(body)
    except json.JSONDecodeError as error:
        raise _unreadable("json_invalid", error.pos, error.msg) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, or nested very deeply
        raise HTTPException(HTTPStatus.BAD_REQUEST) from error
    if fields is None:
        raise _unreadable("missing")
    return schema.model_validate(fields)


def _is_json(content_type: str) -> bool:
    kind, _, name = content_type.partition(";")[0].strip().lower().partition("/")
    return kind == "application" and (name == "json" or name.endswith("+json"))


def _unreadable(kind: str, position: int = 0, reason: str = "") -> RequestValidationError:
    return RequestValidationError([{"type": kind, "loc": ("body", position), "ctx": {"error": reason}}])
