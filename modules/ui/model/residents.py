"""The models that are loaded, being loaded or asleep: where the page draws them, and the routes of their buttons.

static/residents.js draws them. What changes without a new version of the status, such as whether a model answers, the
script asks for while it is in view.
"""

from __future__ import annotations

import math
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import APIRouter, FastAPI
from pydantic import Field
from starlette.requests import Request

from modules.app import App
from modules.core.events import Json
from modules.core.worker_errors import WorkerDied
from modules.runtime.resident import Resident
from modules.ui.gradio_import import gradio
from modules.ui.handlers import ErrorRoute, language_of
from modules.ui.locales import translator
from modules.ui.sent_values import Body
from modules.ui.widgets.messages import decimal_size
from modules.ui.widgets.option_form import Component

gr = gradio()

Name = Annotated[str, Field(max_length=4096)]  # one outside the folder of models is a path


class Named(Body):
    name: Name


class Pin(Named):
    pinned: bool


def residents_card() -> Component:
    """Create the element that the script draws into; nothing is shown while no model is loaded."""
    return gr.HTML("<div data-residents></div>", elem_id="tx-residents", apply_default_css=False)


def add_routes(server: FastAPI, app: App) -> None:
    """Add the routes under /residents. Only the owner may change anything."""
    router = APIRouter(prefix="/residents", route_class=ErrorRoute, include_in_schema=False)

    @router.get("")
    def residents(request: Request) -> Json:
        return body_of(app, language_of(request))

    @router.post("/choose")
    def choose(request: Request, body: Named) -> Json:
        app.refuse_guests()
        app.models.choose(body.name)
        return body_of(app, language_of(request))

    @router.post("/pin")
    def pin(request: Request, body: Pin) -> Json:
        app.refuse_guests()
        app.models.pin(body.name, body.pinned)
        return body_of(app, language_of(request))

    @router.post("/unload")
    def unload(request: Request, body: Named) -> Json:
        app.refuse_guests()
        app.models.unload(body.name)
        return body_of(app, language_of(request))

    server.include_router(router)


def body_of(app: App, language: str) -> dict[str, Json]:
    """Return what the page shows of all residents, the page's own first, and whether the user may change them."""
    found = sorted(app.models.residents(), key=lambda one: not one.is_chosen)
    is_owner = not app.flags.on("multi_user")
    return {"residents": [facts(one, language, is_owner) for one in found], "owner": is_owner}


def facts(resident: Resident, language: str, is_owner: bool = True) -> dict[str, Json]:
    """Return a resident as the script shows it; `state` is "answering" while it generates, and "unreachable" while
    its server does not answer; `text` says it."""
    tr = translator(language)
    is_answering = resident.state == "ready" and resident.generations
    state = "unreachable" if not resident.is_reachable else "answering" if is_answering else resident.state
    has_died = state == "failed" and isinstance(resident.error, WorkerDied)
    text_key = "model_stopped" if has_died else f"resident_{state}"
    text = tr(text_key).format(percent=f"{resident.progress:.0%}", count=resident.generations)
    notes = [
        text,
        resident.loader,
        _holder(resident, is_owner),
        tr("resident_on_demand") if resident.on_demand else "",
        _sleep(resident.sleeps_in, language),
    ]
    return {
        "name": resident.name,
        "state": state,
        "facts": " · ".join(filter(None, notes)),
        "pinned": resident.pinned,
        "chosen": resident.is_chosen,
        "error": resident.error.say(language).partition("\n")[0] if resident.error else "",
    }


def _holder(resident: Resident, is_owner: bool) -> str:
    """Return where a model is: at the address of its server, for the owner, or in so many bytes of main memory."""
    if resident.record.server is not None:
        return urlsplit(resident.record.server.url).netloc if is_owner else ""
    return decimal_size(resident.memory) if resident.memory else ""


def _sleep(seconds: float | None, language: str) -> str:
    """Say when a model goes to sleep, in whole minutes; "" if it does not."""
    if seconds is None:
        return ""
    minutes, tr = math.ceil(seconds / 60), translator(language)
    return tr("resident_sleeps").format(minutes=minutes) if minutes > 1 else tr("resident_sleeps_soon")
