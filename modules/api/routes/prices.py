"""The routes under /v1/internal/prices: start, list and stop measurements of prices, and read their results."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from modules.api.errors import error_body, json_response, language_of
from modules.api.request_body import Expected, Flag, RequestBody, Text
from modules.api.routes.models import owners_only
from modules.app import App
from modules.core.events import Json
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.price_state import PriceState
from modules.options.price import PAIRS

_VALUE = Expected("a value of the option", "选项的值")


class PriceBody(RequestBody):
    """A request for a price: see `PriceRequest`. `a` and `b` may be of any type that the option takes."""

    model_config = ConfigDict(extra="forbid")

    key: Annotated[Text, Expected("the name of an option", "选项名称")]
    a: Annotated[bool | int | float | Text, _VALUE]
    b: Annotated[bool | int | float | Text, _VALUE]
    model: Annotated[Text, Expected("the name of a model", "模型名称")] = ""
    loader: Annotated[Text, Expected("the name of a loader", "加载器名称")] = ""
    options: Annotated[dict[str, Any], Expected('an object such as {"n_ctx": 4096}', '形如 {"n_ctx": 4096} 的对象')] = (
        Field(default_factory=dict)
    )
    pairs: Annotated[int, Expected(PAIRS.expected()["en"], PAIRS.expected()["zh"])] = int(PAIRS.default)
    text: Annotated[Text, Expected("the name of a text", "文本名称")] = ""
    may_unload: Flag = False


class PriceIdBody(RequestBody):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[Text, Expected("the id of a measurement", "测量的编号")]


def routes(app: App) -> APIRouter:
    """Return the router. Its handlers may block: without `async`, they run in threads."""
    router = APIRouter(prefix="/internal/prices", dependencies=[owners_only(app)])

    @router.post("")
    def start(body: PriceBody, request: Request) -> Response:
        wanted = PriceRequest.parse(**body.model_dump())
        return _answer(app, app.prices.start(wanted), request)

    @router.get("")
    def list_runs(request: Request) -> Response:
        language = language_of(request.headers)
        return json_response({"prices": [_json(app, state, language) for state in app.prices.state]})

    @router.post("/stop")
    def stop(body: PriceIdBody, request: Request) -> Response:
        app.prices.stop(body.id)
        return _answer(app, body.id, request)

    @router.get("/results")
    def results(model: str = "", key: str = "") -> Response:
        kept = app.prices.results.of(model, key) if model else app.prices.results.all()
        return json_response({"results": [result.to_json() for result in kept if key in ("", result.key)]})

    @router.get("/{id}")
    def find(id: str, request: Request) -> Response:
        return _answer(app, id, request)

    return router


def _answer(app: App, id: str, request: Request) -> Response:
    return json_response(_json(app, app.prices.find(id), language_of(request.headers)))


def _json(app: App, state: PriceState, language: str) -> Json:
    """Serialize a measurement; `value` is that of the load under way."""
    wanted, left, waiting = state.request, state.seconds_left, app.prices.waiting_for(state.id)
    return {
        "id": state.id,
        "state": state.phase,
        "waiting": waiting[language] if waiting else "",
        "key": wanted.key,
        "a": wanted.a,
        "b": wanted.b,
        "model": wanted.model,
        "loader": wanted.loader,
        "pairs": wanted.pairs,
        "done": state.done,
        "total": state.total,
        "value": state.value,
        "seconds": round(state.seconds, 3),
        "seconds_left": None if left is None else round(left, 3),
        "foreign_load": round(state.foreign_load, 4),
        "error": error_body(state.error, language)["error"] if state.error else None,
        "result": state.result.to_json() if state.result else None,
    }
