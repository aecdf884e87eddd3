"""Build the API application and mount it at /v1.

It is an application of its own, so that its errors have their own edge (`errors`) and access to it is checked
(`auth`), whatever else the server carries.
"""

from __future__ import annotations

from weakref import WeakKeyDictionary

from fastapi import FastAPI

from modules.api import errors
from modules.api.auth import AuthMiddleware
from modules.api.routes import downloads, loras, models, openai
from modules.app import App


def mount_api(server: FastAPI, app: App) -> None:
    """Add all endpoints under /v1 to `server`."""
    defaults: models.Defaults = WeakKeyDictionary()
    api = FastAPI(openapi_url=None)
    api.include_router(openai.routes(app, defaults))
    api.include_router(models.routes(app, defaults))
    api.include_router(downloads.routes(app))
    api.include_router(loras.routes(app))
    errors.register_handlers(api)
    server.mount("/v1", AuthMiddleware(api, app.credentials, app.guesses))
