"""The routes under /v1/internal/download: start a download, see how all stand, pause, resume and cancel one."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from modules.api.errors import error_body, json_response, language_of
from modules.api.routes.models import owner_only
from modules.api.schemas import DownloadRequest, JobRequest, ResumeRequest
from modules.app import App
from modules.core.events import Json
from modules.downloads.request import wanted
from modules.downloads.view import JobView
from modules.hub import file_choices


def routes(app: App) -> APIRouter:
    """The routes. None has `async`, for all may block: they run in threads."""
    router = APIRouter(prefix="/internal/download")

    @router.post("")
    def start(body: DownloadRequest, request: Request) -> Response:
        owner_only(app)
        return _told(app, _start(app, body), request)

    @router.get("")
    def every(request: Request) -> Response:
        owner_only(app)
        language = language_of(request.headers)
        return json_response({"downloads": [_shown(each, language) for each in app.downloads.snapshot()]})

    def ending(act: Callable[[str], None]) -> Callable[[JobRequest, Request], Response]:
        def end(body: JobRequest, request: Request) -> Response:
            owner_only(app)
            act(body.id)
            return _told(app, body.id, request)

        return end

    router.post("/pause")(ending(app.downloads.pause))
    router.post("/cancel")(ending(app.downloads.cancel))

    @router.post("/resume")
    def resume(body: ResumeRequest, request: Request) -> Response:
        owner_only(app)
        app.downloads.resume(body.id, body.keep_commit)
        return _told(app, body.id, request)

    return router


def _start(app: App, body: DownloadRequest) -> str:
    """The files named, else the one of the address, else those that the page ticks by itself. The job's id."""
    address = app.hubs.address(f"{body.repo}:{body.revision}" if body.revision else body.repo)
    repository = app.hubs.repository(address)
    if body.files:
        files = tuple(dict.fromkeys(each for name in body.files for each in file_choices.single(repository, name)))
    elif address.file:
        files = file_choices.single(repository, address.file)
    else:
        files = file_choices.picked(repository)
    return app.downloads.start(wanted(repository, files, body.kind or app.hubs.kind(repository, files)))


def _told(app: App, job: str, request: Request) -> Response:
    shown = [_shown(each, language_of(request.headers)) for each in app.downloads.snapshot() if each.id == job]
    return json_response(shown[0] if shown else {"id": job})


def _shown(view: JobView, language: str) -> Json:
    """`done` and `total` are bytes, `speed` bytes a second, `seconds_left` and `wait_seconds` seconds."""
    error = view.error or view.waiting
    return {
        "id": view.id,
        "repo": view.wanted.repo,
        "revision": view.wanted.revision,
        "commit": view.commit,
        "moved": view.moved,
        "kind": view.wanted.kind,
        "folder": str(view.folder),
        "files": None if view.wanted.files is None else list(view.wanted.files),
        "state": view.state,
        "interrupted": view.interrupted,
        "elsewhere": view.elsewhere,
        "endpoint": view.host,
        "done": view.done,
        "total": view.total,
        "speed": view.speed,
        "seconds_left": view.seconds_left,
        "wait_seconds": view.wait_seconds,
        "error": error_body(error, language)["error"] if error else None,
    }
