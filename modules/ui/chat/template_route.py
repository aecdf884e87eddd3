"""The route that says which template the loaded model uses, and which variables of it a user may set."""

from __future__ import annotations

from fastapi import APIRouter, FastAPI

from modules.app import App
from modules.core.events import Json
from modules.ui.handlers import ErrorRoute


def add_route(server: FastAPI, app: App) -> None:
    """Add GET /chat/template. It is behind the login and the host guard, like all routes of the page."""
    router = APIRouter(prefix="/chat", route_class=ErrorRoute, include_in_schema=False)

    @router.get("/template")
    def template() -> Json:
        """Return the template's origin and its variables; no variables if no model is loaded."""
        if app.models.status.state != "ready":
            return {"model": "", "template": None, "kwargs": []}
        model = app.models.current
        used = app.templates.of(model.record, model.info)
        about = {"origin": "built in" if used.is_ours else used.origin, "name": used.file}
        variables = app.templates.variables(used)
        return {"model": model.record.name, "template": about, "kwargs": [one.to_json() for one in variables]}

    server.include_router(router)
