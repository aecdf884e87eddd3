"""Build the API application and mount it at /v1, and the endpoints that it has at the root.

It is an application of its own, so that its errors have their own edge (`errors`) and access to it is checked
(`auth`), whatever else the server carries.
"""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.middleware.cors import CORSMiddleware
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Receive, Scope, Send

from modules.api import errors
from modules.api.auth import AuthMiddleware
from modules.api.host_guard import allowed_origins
from modules.api.root_paths import FOREIGN_PATHS, ROOT_PATHS
from modules.api.route_guard import RouteGuard
from modules.api.routes import (
    anthropic,
    downloads,
    embeddings,
    evaluations,
    infill,
    inspection,
    loras,
    models,
    openai,
    openai_responses,
    prices,
    router,
    server_info,
    training,
)
from modules.api.state import ApiState
from modules.app import App


class ApiFirst:
    """Pass requests below /v1 to the API, and all others to `server`, whose own way to the API is a sixth slower."""

    def __init__(self, server: ASGIApp, api: Mount) -> None:
        self._server, self._api = server, api

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith("/v1/"):
            _, changes = self._api.matches(scope)
            await self._api.handle({**scope, **changes}, receive, send)
        else:
            await self._server(scope, receive, send)


class GenerationFirst:
    """Pass requests that generate to an application of their `routes` alone, and all others to `api`.

    `api` has these routes, too: it answers other methods than POST.
    """

    def __init__(self, api: ASGIApp, routes: Sequence[Route]) -> None:
        self._api, self._generating = api, Starlette(routes=routes)
        self._paths = frozenset(route.path for route in routes)
        errors.register_handlers(self._generating)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        generates = scope["type"] == "http" and scope["method"] == "POST" and _path(scope) in self._paths
        await (self._generating if generates else self._api)(scope, receive, send)


def _path(scope: Scope) -> str:
    """Return the path of a request below where the application is mounted."""
    return str(scope["path"]).removeprefix(scope.get("root_path", ""))


def mount_api(server: FastAPI, app: App) -> Mount:
    """Add all endpoints under /v1, and those at the root, to `server`. Return what is mounted at /v1."""
    state = ApiState(app)
    generating = [*openai.generation_routes(state), *anthropic.routes(state), *openai_responses.routes(state)]
    api = FastAPI(openapi_url=None, routes=[*generating])
    api.include_router(openai.model_routes(app))
    api.include_router(embeddings.routes(state))
    api.include_router(inspection.routes(state))
    api.include_router(models.routes(state))
    api.include_router(downloads.routes(app))
    api.include_router(loras.routes(app))
    api.include_router(evaluations.routes(app))
    api.include_router(prices.routes(app))
    api.include_router(training.routes(app))
    errors.register_handlers(api)
    mounted = Mount("/v1", _guarded(GenerationFirst(api, generating), app))
    server.router.routes.append(mounted)
    health = FastAPI(openapi_url=None, routes=server_info.health_routes(app).routes)
    errors.register_handlers(health)
    server.router.routes.append(Route("/health", _open_to_origins(health, app)))
    root = FastAPI(openapi_url=None, routes=infill.routes(state))
    root.include_router(server_info.root_routes(state))
    root.include_router(embeddings.root_routes(state))
    root.include_router(router.routes(app))
    errors.register_handlers(root)
    guarded_root = _guarded(root, app)
    below = [f"{start}/{{rest:path}}" for start in FOREIGN_PATHS]
    everything = ["/{rest:path}"] if app.flags.on("nowebui") else []
    for path in (*sorted(ROOT_PATHS), *FOREIGN_PATHS, *below, *everything):
        server.router.routes.append(Route(path, guarded_root))  # of all methods: `root` refuses wrong ones
    return mounted


def _guarded(api: ASGIApp, app: App) -> ASGIApp:
    """Return `api` behind its keys, closed to requests that it has sent itself, and open to `--cors-origins`."""
    return _open_to_origins(RouteGuard(AuthMiddleware(api, app.credentials, app.guesses)), app)


def _open_to_origins(api: ASGIApp, app: App) -> ASGIApp:
    """Return `api`, open to `--cors-origins`."""
    origins = allowed_origins(app.flags, bool(app.credentials.keys))
    return _with_cors(api, origins) if origins else api


def _with_cors(api: ASGIApp, origins: frozenset[str]) -> ASGIApp:
    """Return `api`, whose answers the browser shows to pages of `origins`. Preflights need no key."""
    return CORSMiddleware(
        api, allow_origins=sorted(origins), allow_methods=["GET", "POST"], allow_headers=["*"], expose_headers=["*"]
    )
