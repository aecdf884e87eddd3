"""The routes under /v1/internal/evaluations: start, list and stop evaluations of perplexity, and read their results."""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Request
from pydantic import ConfigDict, Field
from starlette.responses import Response

from modules.api.errors import error_body, json_response, language_of
from modules.api.request_body import Expected, Flag, RequestBody, Text
from modules.api.routes.models import owners_only
from modules.app import App
from modules.core.events import Json
from modules.evaluation.request import EvaluationRequest, Subject
from modules.evaluation.state import RunState, SubjectState
from modules.evaluation.summary import evaluation_json
from modules.evaluation.wikitext import fetch_wikitext

_OPTIONS = Expected('an object such as {"n_ctx": 4096}', '形如 {"n_ctx": 4096} 的对象')
_WEIGHTS = Expected('an object such as {"name": 1}', '形如 {"名称": 1} 的对象')


class SubjectBody(RequestBody):
    """A model to evaluate. Without `loras`, those saved for it are applied."""

    model_config = ConfigDict(extra="forbid")

    model: Annotated[Text, Expected("the name of a model", "模型名称")] = ""
    loader: Annotated[Text, Expected("the name of a loader", "加载器名称")] = ""
    loras: Annotated[dict[Text, float] | None, _WEIGHTS] = None
    options: Annotated[dict[str, Any], _OPTIONS] = Field(default_factory=dict)


class EvaluationBody(RequestBody):
    """Without `models`, the loaded model is evaluated. Further fields are those of `options.evaluation`."""

    model_config = ConfigDict(extra="allow")

    text: Annotated[Text, Expected("the name of a text", "文本名称")]
    models: Annotated[list[SubjectBody] | None, Expected("a list of models", "模型列表")] = None
    may_unload: Flag = False
    skip_tested: Flag = False


class EvaluationIdBody(RequestBody):
    model_config = ConfigDict(extra="forbid")

    id: Annotated[Text, Expected("the id of an evaluation", "评估的编号")]


def routes(app: App) -> APIRouter:
    """Return the router. Its handlers may block: without `async`, they run in threads."""
    router = APIRouter(prefix="/internal/evaluations", dependencies=[owners_only(app)])

    @router.post("")
    def start(body: EvaluationBody, request: Request) -> Response:
        subjects = [Subject(one.model, one.loader, one.loras, one.options) for one in body.models or ()]
        if body.models is None:
            subjects = [Subject()]
        wanted = EvaluationRequest.parse(
            body.text, tuple(subjects), body.model_extra or {}, body.may_unload, body.skip_tested
        )
        return _answer(app, app.evaluations.start(wanted), request)

    @router.get("")
    def list_runs(request: Request) -> Response:
        language = language_of(request.headers)
        return json_response({"evaluations": [_json(app, state, language) for state in app.evaluations.state]})

    @router.post("/stop")
    def stop(body: EvaluationIdBody, request: Request) -> Response:
        app.evaluations.stop(body.id)
        return _answer(app, body.id, request)

    @router.get("/results")
    def results() -> Response:
        return json_response({"results": [{**row.cells, "id": row.id} for row in app.evaluations.results.rows()]})

    @router.get("/texts")
    def texts() -> Response:
        return json_response({"texts": [{"name": file.name, "size": file.size} for file in app.texts.files()]})

    @router.post("/texts/wikitext")
    def fetch_text() -> Response:
        return json_response({"name": fetch_wikitext(app.mirrors, app.texts.folder).name})

    @router.get("/{id}")
    def find(id: str, request: Request) -> Response:
        return _answer(app, id, request)

    return router


def _answer(app: App, id: str, request: Request) -> Response:
    return json_response(_json(app, app.evaluations.find(id), language_of(request.headers)))


def _json(app: App, state: RunState, language: str) -> Json:
    wanted, waiting = state.request, app.evaluations.waiting_for(state.id)
    return {
        "id": state.id,
        "state": state.phase,
        "waiting": waiting[language] if waiting else "",
        "text": wanted.text,
        "method": wanted.method,
        "stride": wanted.stride,
        "max_length": wanted.max_length,
        "windows": wanted.windows,
        "bos": wanted.bos,
        "kl": wanted.kl,
        "seconds": round(state.seconds, 3),
        "models": [_subject_json(subject, language) for subject in state.subjects],
    }


def _subject_json(state: SubjectState, language: str) -> Json:
    """Serialize the state of a model; `perplexity` is that of the windows done so far."""
    shown = state.done > 0 and math.isfinite(state.perplexity)
    return {
        "model": state.subject.model,
        "state": state.phase,
        "done": state.done,
        "total": state.total,
        "perplexity": state.perplexity if shown else None,
        "error": error_body(state.error, language)["error"] if state.error else None,
        "tested": {**state.tested.cells, "id": state.tested.id} if state.tested else None,
        "result": evaluation_json(state.result, language) if state.result else None,
    }
