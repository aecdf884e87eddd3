"""Endpoints under /v1/internal/lora: list and apply LoRAs, in the original web UI's format."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fastapi import APIRouter, Request
from starlette.responses import Response

from modules.api.errors import json_response, language_of
from modules.api.internal_schemas import LorasRequest
from modules.api.routes.models import owners_only
from modules.app import App
from modules.catalog.background_scan import LIST_SECONDS
from modules.core.events import Json
from modules.lora.catalog import LoraRecord
from modules.lora.manager import DEFAULT_WEIGHT, ON_SERVER
from modules.runtime.loaded_model import AppliedLora


def routes(app: App) -> APIRouter:
    """Return the router. Its handlers may block: without `async`, they run in threads."""
    router, owner = APIRouter(prefix="/internal/lora"), [owners_only(app)]

    @router.get("/list")
    def list_loras(request: Request) -> Response:
        records, language = app.loras.catalog.all(LIST_SECONDS), language_of(request.headers)
        offered = [name for name in app.models.status.server_loras if name not in {one.name for one in records}]
        records += [LoraRecord(name, Path(), ON_SERVER) for name in offered]
        names = [record.name for record in records if not record.problem]
        return json_response(
            {
                "lora_names": names,
                "loras": [_lora_object(record, language) for record in records],
                "applied": _applied(app.models.status.loras),
            }
        )

    @router.post("/load", dependencies=owner)
    def load(body: LorasRequest) -> Response:
        weights = body.lora_weights or [DEFAULT_WEIGHT] * len(body.lora_names)
        return json_response({"applied": _applied(app.loras.apply(dict(zip(body.lora_names, weights, strict=True))))})

    @router.post("/unload", dependencies=owner)
    def unload() -> Response:
        return json_response({"applied": _applied(app.loras.apply({}))})

    return router


def _applied(loras: tuple[AppliedLora, ...]) -> list[Json]:
    return [dataclasses.asdict(lora) for lora in loras]


def _lora_object(record: LoraRecord, language: str) -> Json:
    """Return a LoRA for the list; `size` is in bytes."""
    return {
        "name": record.name,
        "kind": record.kind,
        "size": record.size,
        "ranks": list(record.ranks),
        "alpha": record.alpha,
        "targets": list(record.targets),
        "base": record.base,
        "state": record.state,
        "problem": record.problem.say(language) if record.problem else None,
    }
