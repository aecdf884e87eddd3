"""The routes under /v1/internal/download: start, list, pause, resume and cancel downloads."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from fastapi import APIRouter, Request
from starlette.responses import Response

from modules.api.errors import error_body, json_response, language_of
from modules.api.internal_schemas import DownloadRequest, JobRequest, ResumeRequest
from modules.api.routes.models import owners_only
from modules.app import App
from modules.core.events import Json
from modules.downloads.request import FileCriteria, preselected_choices, select_files
from modules.downloads.view import JobView


def routes(app: App) -> APIRouter:
    """Return the router. Its functions are not async because all of them may block; FastAPI runs them in threads."""
    router = APIRouter(prefix="/internal/download", dependencies=[owners_only(app)])

    @router.post("")
    def start(body: DownloadRequest, request: Request) -> Response:
        return _job_response(app, _start(app, body), request)

    @router.get("")
    def list_jobs(request: Request) -> Response:
        language = language_of(request.headers)
        return json_response({"downloads": [_job_json(view, language) for view in app.downloads.snapshot()]})

    def job_route(action: Callable[[str], None]) -> Callable[[JobRequest, Request], Response]:
        def act(body: JobRequest, request: Request) -> Response:
            action(body.id)
            return _job_response(app, body.id, request)

        return act

    router.post("/pause")(job_route(app.downloads.pause))
    router.post("/cancel")(job_route(app.downloads.cancel))

    @router.post("/resume")
    def resume(body: ResumeRequest, request: Request) -> Response:
        app.downloads.resume(body.id, body.keep_commit)
        return _job_response(app, body.id, request)

    return router


def _start(app: App, body: DownloadRequest) -> str:
    """Start the download and return the job's id."""
    address = app.mirrors.parse_address(body.repo, body.revision)
    repository = app.mirrors.repository(address)
    choices = None if body.files else sorted(preselected_choices(repository, address))
    selection = select_files(repository, address, FileCriteria(files=body.files, choices=choices))
    kind = body.kind or app.mirrors.kind(repository, selection.files)
    return app.downloads.start(dataclasses.replace(selection, kind=kind).spec)


def _job_response(app: App, job: str, request: Request) -> Response:
    language = language_of(request.headers)
    jobs = [_job_json(view, language) for view in app.downloads.snapshot() if view.id == job]
    return json_response(jobs[0] if jobs else {"id": job})


def _job_json(view: JobView, language: str) -> Json:
    """Serialize a job: `done` and `total` in bytes, `speed` in bytes per second, the rest of the times in seconds."""
    error = view.error or view.waiting
    return {
        "id": view.id,
        "repo": view.spec.repo,
        "revision": view.spec.revision,
        "commit": view.commit,
        "moved": view.moved,
        "kind": view.spec.kind,
        "folder": str(view.folder),
        "files": None if view.spec.files is None else list(view.spec.files),
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
