"""The API's edge: whatever goes wrong under /v1 is answered in OpenAI's shape, in the language of the client."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from modules.core.errors import InternalError, OptionError, PromptTooLong, UnknownName, UnknownOption, WebUIError, Words
from modules.core.events import Json
from modules.core.paths import ROOT

log = logging.getLogger(__name__)

CLIENT_GONE = 499
"""nginx's status for a client that hung up; nobody receives it."""

_CODES: Mapping[type[WebUIError], str] = {
    PromptTooLong: "context_length_exceeded",
    UnknownOption: "unknown_parameter",
    OptionError: "invalid_value",
}
"""OpenAI's own codes where it has one. Any other is the name of our error, as model_not_found."""

_NOT_JSON: Words = {
    "en": "The body must be JSON, sent as Content-Type: application/json.",
    "zh": "请求体必须是 JSON，并以 Content-Type: application/json 发送。",
}
_NO_BODY: Words = {"en": "The request needs a body: a JSON object.", "zh": "请求需要一个 JSON 对象作为请求体。"}
_NO_PLACE: Words = {"en": "There is nothing at {path}.", "zh": "{path} 不存在。"}
_NO_METHOD: Words = {"en": "{path} cannot be asked with {method}.", "zh": "{path} 不支持 {method} 方法。"}


def language_of(headers: Headers) -> str:
    return "zh" if headers.get("accept-language", "").strip().lower().startswith("zh") else "en"


def error_body(error: WebUIError, language: str) -> Json:
    """ "type" and "code" as OpenAI has them; "param" names the option at fault, if it is one."""
    kind = type(error)
    code = _CODES.get(kind) or re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.__name__).lower()
    param = error.option if isinstance(error, OptionError) else error.name if isinstance(error, UnknownName) else None
    return _body(error.say(language), error.status, code, param)


def _body(message: str, status: int, code: str, param: str | None = None) -> Json:
    family = "invalid_request_error" if status < 500 else "server_error"
    return {"error": {"message": message, "type": family, "param": param, "code": code}}


def json_response(body: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """`body` in UTF-8. It may repeat what a client sent, and so hold halves of characters: they become "?"."""
    text = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    return Response(text.encode("utf-8", "replace"), status, headers, media_type="application/json")


def refuse(
    headers: Headers, status: int, code: str, words: Words, answer_headers: Mapping[str, str] | None = None
) -> Response:
    """A refusal that is no WebUIError, for it concerns HTTP alone. `headers` are the request's."""
    return json_response(_body(words[language_of(headers)], status, code), status, answer_headers)


def register(api: FastAPI) -> None:
    """Give `api` this edge."""
    api.add_exception_handler(WebUIError, _known)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_exception_handler(HTTPException, _http)
    api.add_exception_handler(ClientDisconnect, _gone)
    api.add_exception_handler(Exception, _unknown)


async def _known(request: Request, error: Exception) -> Response:
    assert isinstance(error, WebUIError)
    return json_response(error_body(error, language_of(request.headers)), error.status)


async def _invalid(request: Request, error: Exception) -> Response:
    """FastAPI could not even hand the body to `schemas`: it is absent or no JSON."""
    assert isinstance(error, RequestValidationError)
    detail = error.errors()[0]
    if detail["type"] == "json_invalid":
        place, fault = detail["loc"][-1], detail["ctx"]["error"]
        words = {
            "en": f"The body is not JSON: {fault} at character {place}.",
            "zh": f"请求体不是 JSON：第 {place} 个字符处 {fault}。",
        }
        return refuse(request.headers, 400, "invalid_json", words)
    return refuse(request.headers, 400, "invalid_json", _NO_BODY)


async def _http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    words, code = {404: (_NO_PLACE, "not_found"), 405: (_NO_METHOD, "method_not_allowed")}.get(
        error.status_code, (_NOT_JSON, "invalid_json")
    )
    path = request.scope["path"]
    filled = {language: text.format(path=path, method=request.method) for language, text in words.items()}
    return refuse(request.headers, error.status_code, code, filled, error.headers)


async def _gone(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_GONE)


async def _unknown(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.scope["path"], exc_info=error)
    return await _known(request, InternalError(_log_place()))


def _log_place() -> str:
    """The log file, relative to the program's folder where it lies there; else the terminal."""
    files = [each.baseFilename for each in logging.getLogger().handlers if isinstance(each, logging.FileHandler)]
    return files[0].removeprefix(f"{ROOT}/") if files else "stderr"
