"""Error edge of the API: answer every error in the format of the API that was called and the client's language."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass

from fastapi.exceptions import RequestValidationError
from starlette.applications import Starlette
from starlette.datastructures import Headers, QueryParams
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.types import Scope

from modules.api.error_shapes import anthropic_error, openai_error, speaks_anthropic
from modules.core.embedding_errors import InputTooLong
from modules.core.errors import InternalError, NoModelLoaded, OptionError, UnknownOption, WebUIError, Words
from modules.core.events import Json
from modules.core.paths import ROOT
from modules.core.worker_errors import PromptTooLong, TextTooLong

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""nginx's status for a client that has disconnected; it appears in the log only."""

_CODES: Mapping[type[WebUIError], str] = {
    PromptTooLong: "context_length_exceeded",
    TextTooLong: "context_length_exceeded",
    InputTooLong: "context_length_exceeded",
    UnknownOption: "unknown_parameter",
    OptionError: "invalid_value",
}
"""OpenAI's codes for errors that it has too. Others get the name of the error class, such as model_not_found."""

_NOT_JSON: Words = {
    "en": "The body must be JSON, sent as Content-Type: application/json.",
    "zh": "请求体必须是 JSON，并以 Content-Type: application/json 发送。",
}
_NO_BODY: Words = {"en": "The request needs a body: a JSON object.", "zh": "请求需要一个 JSON 对象作为请求体。"}
_NOT_FOUND: Words = {"en": "There is no endpoint {path}.", "zh": "接口 {path} 不存在。"}
_METHOD_NOT_ALLOWED: Words = {
    "en": "{path} does not support the method {method}.",
    "zh": "{path} 不支持 {method} 方法。",
}


MAX_NESTING = 64
_NESTED: Words = {
    "en": f"JSON nested at most {MAX_NESTING} levels deep",
    "zh": f"嵌套不超过 {MAX_NESTING} 层的 JSON",
}


@dataclass(eq=False)
class OwnersKeyNeeded(WebUIError):
    """The request came with a key for using models only."""

    name: str
    status = 403
    template = {
        "en": "Not allowed with the API key {name!r}, which may use models, but not load, unload or download any.",
        "zh": "API 密钥{name!r}只能使用模型，不能加载、卸载或下载模型。",
    }


@dataclass(eq=False)
class OwnerMustLoad(NoModelLoaded):
    """No model is loaded, and who asked may not load any."""

    template = {
        "en": "No model is loaded. Only the owner of this server can load one: on its page unless it runs with "
        "--multi-user, at its start by --model, or with an API key of the role owner.",
        "zh": "尚未加载模型。只有服务器的管理者可以加载：在页面上（使用 --multi-user 时除外），启动时用 --model，"
        "或使用 owner 角色的 API 密钥。",
    }
    template_elsewhere = None


def too_deep() -> OptionError:
    return OptionError("body", "…", _NESTED)


def language_of(headers: Headers) -> str:
    return "zh" if headers.get("accept-language", "").strip().lower().startswith("zh") else "en"


def error_body(error: WebUIError, language: str) -> Json:
    """Return the body in OpenAI's format: "type" and "code" as there, "param" as the name of an invalid option."""
    error_class = type(error)
    code = _CODES.get(error_class) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", error_class.__name__).lower()
    param = error.option if isinstance(error, OptionError) else error.name if isinstance(error, UnknownOption) else None
    return openai_error(error.say_elsewhere(language), error.status, code, param)


def json_response(body: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return `body` as UTF-8. It may quote a client's text, in which lone surrogates become "?"."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, headers, media_type="application/json")


def error_response(
    scope: Scope, status: int, code: str, words: Words, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an error of HTTP alone, for which there is no WebUIError, with `headers`. `scope` is the request's.

    Requests of the page state their language in the query.
    """
    language = QueryParams(scope.get("query_string", b"")).get("lang", "")
    message = words.get(language) or words[language_of(Headers(scope=scope))]
    body = anthropic_error(message, status) if speaks_anthropic(scope) else openai_error(message, status, code)
    return json_response(body, status, headers)


def register_handlers(api: Starlette) -> None:
    """Let `api` answer all errors in this format."""
    api.add_exception_handler(WebUIError, _answer_known)
    api.add_exception_handler(RequestValidationError, _answer_unreadable_body)
    api.add_exception_handler(HTTPException, _answer_http_error)
    api.add_exception_handler(ClientDisconnect, _answer_disconnect)
    api.add_exception_handler(Exception, _answer_unknown)


async def _answer_known(request: Request, error: Exception) -> Response:
    assert isinstance(error, WebUIError)
    language = language_of(request.headers)
    headers = {"Retry-After": str(error.retry_after)} if error.retry_after else {}
    if speaks_anthropic(request.scope):
        return json_response(anthropic_error(error.say_elsewhere(language), error.status), error.status, headers)
    return json_response(error_body(error, language), error.status, headers)


async def _answer_unreadable_body(request: Request, error: Exception) -> Response:
    """Answer a request whose body is missing or not JSON, so that `schemas` could not check it."""
    assert isinstance(error, RequestValidationError)
    detail = error.errors()[0]
    if detail["type"] == "json_invalid":
        position, reason = detail["loc"][-1] + 1, detail["ctx"]["error"]
        words = {
            "en": f"The body is not JSON: {reason} at character {position}.",
            "zh": f"请求体不是 JSON：第 {position} 个字符处 {reason}。",
        }
        return error_response(request.scope, 400, "invalid_json", words)
    return error_response(request.scope, 400, "invalid_json", _NO_BODY)


async def _answer_http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words, code = {404: (_NOT_FOUND, "not_found"), 405: (_METHOD_NOT_ALLOWED, "method_not_allowed")}.get(
        error.status_code, (_NOT_JSON, "invalid_json")
    )
    if isinstance(error.__cause__, RecursionError):  # nested so deeply that it could not be decoded
        return await _answer_known(request, too_deep())
    path = request.scope["path"]
    filled = {language: text.format(path=path, method=request.method) for language, text in words.items()}
    return error_response(request.scope, error.status_code, code, filled, error.headers)


async def _answer_disconnect(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _answer_unknown(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return await _answer_known(request, InternalError(_log_file()))


def _log_file() -> str:
    """Return the path of the log file, relative to the program's folder if it is inside; "stderr" without one."""
    files = [
        handler.baseFilename for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler)
    ]
    return files[0].removeprefix(f"{ROOT}/") if files else "stderr"
