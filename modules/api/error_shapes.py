"""The bodies of errors, in the formats of OpenAI's and Anthropic's APIs."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.types import Scope

from modules.core.events import Json

ANTHROPIC_VERSION = "anthropic-version"
"""A header that all clients of Anthropic's API send."""

_ANTHROPIC_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def speaks_anthropic(scope: Scope) -> bool:
    """Return whether a request is one to Anthropic's API, by its path or by the header that its clients send."""
    path = scope["path"]
    return path == "/v1/messages" or path.startswith("/v1/messages/") or ANTHROPIC_VERSION in Headers(scope=scope)


def openai_error(message: str, status: int, code: str, param: str | None = None) -> Json:
    error_type = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": error_type, "param": param, "code": code}}


def anthropic_error(message: str, status: int) -> Json:
    default = "invalid_request_error" if status < 500 else "api_error"
    return {"type": "error", "error": {"type": _ANTHROPIC_TYPES.get(status, default), "message": message}}
