"""llama-server's endpoints at the root: the state of the server, and the tokenizer. None of them loads a model."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Request
from pydantic import ConfigDict
from starlette.responses import Response

from modules.api.auth import is_owner
from modules.api.chat_calls import prepare_chat
from modules.api.errors import json_response
from modules.api.metrics import CONTENT_TYPE, exposition
from modules.api.model_use import advice_for_role, find_model, substituted
from modules.api.request_body import Expected, Flag, RequestBody, Text, Tokens
from modules.api.schemas import ChatRequest
from modules.api.state import ApiState
from modules.app import App
from modules.core.errors import ModelLoading, Unsupported
from modules.core.events import Json
from modules.core.image_marks import shown
from modules.core.product import PRODUCT, revision
from modules.loaders.generation_settings import PARAMETERS
from modules.options.option import Value
from modules.runtime.errors import ModelAsleep, NotInMemory
from modules.runtime.loaded_model import GENERATE, LoadedModel

_NAME = Expected("a name", "名称")


class TokenizeRequest(RequestBody):
    model_config = ConfigDict(extra="ignore")

    model: Annotated[Text, _NAME] = ""
    content: Annotated[Text, Expected("a text", "文本")]
    add_special: Flag = False
    parse_special: Flag = True
    with_pieces: Flag = False


class DetokenizeRequest(RequestBody):
    model_config = ConfigDict(extra="ignore")

    model: Annotated[Text, _NAME] = ""
    tokens: Annotated[Tokens, Expected("a list of token numbers", "词符编号列表")]


def health_routes(app: App) -> APIRouter:
    """Return the endpoint that needs no key."""
    router = APIRouter()

    @router.api_route("/health", methods=["GET", "HEAD"], include_in_schema=False)  # monitors ask for the head alone
    async def health() -> Response:
        """Answer 503 while a model loads and no other is ready, so that a load balancer waits for it."""
        is_loading = app.models.status.state == "loading" or any(
            one.state == "loading" for one in app.models.residents()
        )
        if not app.models.loaded() and is_loading:
            error = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
            return json_response({"error": error}, HTTPStatus.SERVICE_UNAVAILABLE)
        return json_response({"status": "ok"})

    return router


def root_routes(state: ApiState) -> APIRouter:
    """Return the router. Handlers that may block are not `async`: they run in threads."""
    router, app = APIRouter(), state.app

    @router.get("/metrics")
    def metrics() -> Response:
        models = app.models
        text = exposition(models.totals.current, models.loaded(), models.residents(), models.waiting_requests)
        return Response(text, media_type=CONTENT_TYPE)

    @router.get("/props")
    async def props(request: Request, model: str = "") -> Response:
        try:
            found = await resident_model(app, request, model)
        except ModelAsleep as error:
            return json_response(_asleep(error.model))
        return found.answer(await asyncio.to_thread(_props_of, state, found.model))

    @router.get("/slots")
    async def slots(request: Request, model: str = "", fail_on_no_slot: str = "") -> Response:
        found = await resident_model(app, request, model)
        slots = _slots(found.model)
        if fail_on_no_slot and all(slot["is_processing"] for slot in slots):
            error = {"code": 503, "message": "no slot available", "type": "unavailable_error"}
            return json_response({"error": error}, HTTPStatus.SERVICE_UNAVAILABLE)
        return found.answer(slots)

    @router.post("/tokenize")
    async def tokenize(body: TokenizeRequest, request: Request) -> Response:
        if not body.parse_special:
            raise Unsupported({"en": "parse_special: false is not supported.", "zh": "不支持 parse_special: false。"})
        found = await resident_model(app, request, body.model)
        if not body.with_pieces:
            ids = await found.model.ask_async("encode", text=body.content, add_special=body.add_special)
            return found.answer({"tokens": ids})
        pieces = await found.model.ask_async("pieces", text=body.content, add_special=body.add_special)
        return found.answer({"tokens": [_piece(id, text, raw) for id, text, raw, _ in pieces]})

    @router.post("/detokenize")
    async def detokenize(body: DetokenizeRequest, request: Request) -> Response:
        found = await resident_model(app, request, body.model)
        return found.answer({"content": await found.model.ask_async("decode", tokens=body.tokens)})

    @router.post("/apply-template")
    async def apply_template(body: ChatRequest, request: Request) -> Response:
        found = await resident_model(app, request, body.model, GENERATE)
        call = await prepare_chat(state, found.model, body)
        return found.answer({"prompt": shown(call.prompt.prompt.text)})

    return router


@dataclass(frozen=True)
class _Found:
    """The model that answers a request, and the headers of the answer."""

    model: LoadedModel
    headers: Mapping[str, str]

    def answer(self, body: Json) -> Response:
        return json_response(body, headers=self.headers)


async def resident_model(app: App, request: Request, name: str, task: str | None = None) -> _Found:
    """Return the resident of that name, in its short form too. If no model has it, return the current one.

    That is the page's model or, if it has none, the one used last; with `task`, as in `Info.task`, one of this task if
    there is any. None is woken. Raises ModelAsleep, ModelLoading, NoModelLoaded or OwnerMustLoad, NotInMemory for a
    model that is on disk alone, and with `--strict-model` ModelNotFound.
    """
    if found := await find_model(app, name):
        return _Found(_named_model(app, found), {})
    with advice_for_role(is_owner(app, request.scope)):
        return _Found(_current_model(app, task), substituted(name) if name else {})


def _current_model(app: App, task: str | None) -> LoadedModel:
    able = [model for model in app.models.loaded() if task in (None, model.info.task)]
    if able and not any(resident.is_chosen for resident in app.models.residents()):
        return able[0]
    current = app.models.current
    return able[0] if able and task not in (None, current.info.task) else current


def _named_model(app: App, name: str) -> LoadedModel:
    loaded = next((model for model in app.models.loaded() if model.record.name == name), None)
    if loaded is not None:
        return loaded
    states = {resident.name: resident.state for resident in app.models.residents()}
    if states.get(name) == "asleep":
        raise ModelAsleep(name)
    raise ModelLoading(name) if states.get(name) == "loading" else NotInMemory(name)


def _asleep(name: str) -> Json:
    return {"model_alias": name, "model_path": name, "total_slots": 0, "is_sleeping": True}


def _props_of(state: ApiState, model: LoadedModel) -> Json:
    template = state.app.templates.of(model.record, model.info)
    return {**_props(model, state.defaults_of(model)), "chat_template": template.source}


def _piece(id: int, text: str, raw: str) -> Json:
    """Return one token; a piece that is no whole text, as a list of bytes."""
    return {"id": id, "piece": text if text or not raw else list(bytes.fromhex(raw))}


_SAME_NAMES = (
    *("seed", "temperature", "dynatemp_exponent", "top_k", "top_p", "min_p", "typical_p", "top_n_sigma"),
    *("xtc_probability", "xtc_threshold", "presence_penalty", "frequency_penalty", "dry_multiplier", "dry_base"),
    *("dry_allowed_length", "mirostat_tau", "mirostat_eta"),
)
_PARAMETERS: Mapping[str, str] = {
    "n_predict": "max_new_tokens",
    "repeat_last_n": "repetition_penalty_range",
    "repeat_penalty": "repetition_penalty",
    "mirostat": "mirostat_mode",
    **{name: name for name in _SAME_NAMES},
}
"""llama-server's names of generation parameters that mean the same."""
_ZERO_IS_ALL = ("n_predict", "repeat_last_n")  # -1 for llama-server


def _props(model: LoadedModel, saved: Mapping[str, Value]) -> dict[str, Json]:
    values: dict[str, Json] = {name: saved.get(key, PARAMETERS[key].default) for name, key in _PARAMETERS.items()}
    values |= {name: values[name] or -1 for name in _ZERO_IS_ALL}
    tokens = model.info.special_tokens
    return {
        "default_generation_settings": {**_slot(0, model, model.generations > 0), "params": values},
        "total_slots": model.info.slots,
        "model_alias": model.record.name,
        "model_path": model.record.name,
        "bos_token": tokens.get("bos_token", ""),
        "eos_token": tokens.get("eos_token", ""),
        "modalities": {"vision": model.info.images, "audio": False},
        "build_info": f"{PRODUCT} {revision()[:10]}".rstrip(),
        "is_sleeping": False,
    }


def _slots(model: LoadedModel) -> list[dict[str, Json]]:
    busy = model.generations
    return [_slot(number, model, number < busy) for number in range(model.info.slots)]


def _slot(number: int, model: LoadedModel, busy: bool) -> dict[str, Json]:
    return {
        "id": number,
        "id_task": number if busy else -1,
        "n_ctx": model.info.context_length,
        "speculative": False,
        "is_processing": busy,
    }
