"""The routes that the page's script calls for training. All are the owner's alone.

Errors of the form are answered with the parameter that they are about: {"error", "field"}.
"""

from __future__ import annotations

import threading
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Query
from pydantic import Field
from starlette.background import BackgroundTask
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from modules.app import App
from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.training.original_parameters import read_parameters
from modules.training.parameters import PARAMETERS
from modules.training.publish import PARAMETERS_FILE
from modules.training.start import disk_problems
from modules.ui.handlers import ErrorRoute, language_of
from modules.ui.model.residents import body_of
from modules.ui.sent_values import Body
from modules.ui.training.adapters import MAX_PROMPT, adapter_of, apply_adapter, compare
from modules.ui.training.exports import Merges, zipped
from modules.ui.training.facts import RunFactsReader, field_of
from modules.ui.training.form import MAX_PARAMETERS, form_of, lists, parsed_file
from modules.ui.training.runs_view import curves, run_json
from modules.ui.training.upload import add_dataset, bounded_body

Name = Annotated[str, Field(max_length=300)]


class Parameters(Body):
    values: Annotated[dict[str, Any], Field(max_length=2 * len(PARAMETERS))]


class Start(Parameters):
    continues: Name = ""


class Preview(Parameters):
    seed: Annotated[int, Field(ge=0, le=1_000_000)] = 0


class ParameterFile(Body):
    content: Annotated[str, Field(max_length=MAX_PARAMETERS)]


class Named(Body):
    name: Name


class NewModel(Named):
    model: Name
    """The name of the merged model; `name` is that of the run."""


class Question(Named):
    question: Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)]


def add_routes(server: FastAPI, app: App) -> None:
    """Add the routes under /training."""
    owner = [Depends(app.refuse_guests)]
    router = APIRouter(prefix="/training", route_class=ErrorRoute, include_in_schema=False, dependencies=owner)
    _add_form(router, app)
    _add_checks(router, app)
    merges = Merges(app)
    _add_runs(router, app, merges)
    _add_adapters(router, app, merges)
    server.include_router(router)


def _add_form(router: APIRouter, app: App) -> None:
    @router.get("/form")
    def form(request: Request) -> Json:
        return form_of(app, language_of(request))

    @router.get("/lists")
    def names() -> Json:
        return lists(app)

    @router.get("/parameters")
    def parameters_of(request: Request, lora: Annotated[str, Query(max_length=300)]) -> Json:
        """Return the parameters with which a LoRA was trained, to fill in the form."""
        path = app.loras.catalog.find(lora).path / PARAMETERS_FILE
        try:
            content = path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_PARAMETERS else ""
        except (OSError, ValueError):
            content = ""
        return _filled(content, language_of(request))

    @router.post("/parameters")
    def parameters_in(request: Request, body: ParameterFile) -> Json:
        return _filled(body.content, language_of(request))

    @router.post("/upload")
    async def upload(request: Request, name: Annotated[str, Query(max_length=300)] = "") -> Json:
        content, folder = await bounded_body(request, name), app.training.data.datasets.folder

        def write() -> Json:
            with disk_problems(folder):
                return {"name": add_dataset(folder, name, content), "lists": lists(app)}

        return await run_in_threadpool(write)


def _filled(content: str, language: str) -> Json:
    """Return the parameters in a file, and what was changed in those of other versions."""
    values, notes = read_parameters(parsed_file(content))
    return {"values": values, "notes": [note[language] for note in notes]}


def _add_checks(router: APIRouter, app: App) -> None:
    reader = RunFactsReader(app)

    @router.post("/facts")
    def facts(request: Request, body: Parameters) -> Response:
        """Describe the run. What prevents it is an answer as well, for a form is incomplete at first."""
        language = language_of(request)
        memory = {"residents": body_of(app, language)["residents"]}
        try:
            found = reader.facts(body.values)
        except WebUIError as error:
            return JSONResponse({**_problem(error, body.values, language), **memory})
        notes = [note[language] for note in found["notes"]]
        return JSONResponse({**found, "notes": notes, **memory})

    @router.post("/preview")
    def preview(request: Request, body: Preview) -> Response:
        language = language_of(request)
        try:
            return JSONResponse(_in_language(reader.preview(body.values, body.seed), language))
        except WebUIError as error:
            return JSONResponse(_problem(error, body.values, language), error.status)

    @router.post("/start")
    def start(request: Request, body: Start) -> Response:
        try:
            return JSONResponse({"name": app.training.start(body.values, body.continues)})
        except WebUIError as error:
            return JSONResponse(_problem(error, body.values, language_of(request)), error.status)


def _in_language(preview: dict[str, Json], language: str) -> dict[str, Json]:
    """Return a preview with its notes and the reasons of bad rows in one language."""
    files = [
        {**file, "bad": [{"row": one["row"], "problem": one["problem"][language]} for one in file["bad"]]}
        for file in preview["files"]
    ]
    return {**preview, "files": files, "notes": [note[language] for note in preview["notes"]]}


def _problem(error: WebUIError, values: dict[str, Any], language: str) -> dict[str, Json]:
    """Return an error with the parameter to change."""
    return {"error": error.say(language), "field": field_of(error, values)}


def _add_runs(router: APIRouter, app: App, merges: Merges) -> None:
    @router.get("/runs")
    def runs(
        request: Request, chart: Annotated[str, Query(max_length=300)] = "", drawn: int = -1, log: bool = False
    ) -> Json:
        """Return all runs, and the curves of the run `chart` unless its log has `drawn` entries as before."""
        language, training = language_of(request), app.training.runs
        views = training.snapshot()
        body: dict[str, Json] = {"runs": [run_json(app, view, language) for view in views]}
        body["merge"] = merges.to_json(language)
        if any(view.name == chart for view in views):
            entries = training.log(chart)
            if len(entries) != drawn:
                body |= {"drawn": len(entries), "curves": curves(entries, language, log)}
        return body

    @router.get("/runs/parameters")
    def run_parameters(name: Annotated[str, Query(max_length=300)]) -> Json:
        return {"values": dict(app.training.runs.view(name).run.parameters)}

    @router.post("/runs/stop")
    def stop(body: Named) -> Json:
        app.training.runs.stop(body.name)
        return {}

    @router.post("/runs/discard")
    def discard(body: Named) -> Json:
        app.training.runs.discard(body.name)
        return {}

    @router.post("/runs/resume")
    def resume(body: Named) -> Json:
        app.training.runs.resume(body.name)
        return {}

    @router.post("/runs/delete")
    def delete(body: Named) -> Json:
        app.training.runs.delete(body.name)
        return {}


def _add_adapters(router: APIRouter, app: App, merges: Merges) -> None:
    comparing = threading.Lock()  # each comparison applies LoRAs, and then those of before again

    @router.post("/runs/apply")
    def apply(body: Named) -> Json:
        apply_adapter(app, body.name)
        return {}

    @router.post("/runs/compare")
    def compare_answers(body: Question) -> Json:
        with comparing:
            return compare(app, body.name, body.question)

    @router.post("/runs/merge")
    def merge(body: NewModel) -> Json:
        view = app.training.runs.view(body.name)
        merges.start(adapter_of(app, view), view.run.model, body.model)
        return {}

    @router.get("/export/adapter")
    def adapter(name: Annotated[str, Query(max_length=300)]) -> Response:
        folder = app.loras.catalog.find(adapter_of(app, app.training.runs.view(name))).path
        with disk_problems(folder):
            archive = zipped(folder)
        after = BackgroundTask(archive.unlink, missing_ok=True)
        return FileResponse(archive, filename=f"{folder.name}.zip", media_type="application/zip", background=after)

    @router.get("/export/check")
    def check_gguf(name: Annotated[str, Query(max_length=300)], model: Annotated[str, Query(max_length=4096)]) -> Json:
        """Convert a LoRA without sending it, so that the page can say why that fails."""
        app.training.export_gguf(adapter_of(app, app.training.runs.view(name)), model)
        return {}

    @router.get("/export/gguf")
    def gguf(name: Annotated[str, Query(max_length=300)], model: Annotated[str, Query(max_length=4096)]) -> Response:
        lora = adapter_of(app, app.training.runs.view(name))
        return FileResponse(app.training.export_gguf(lora, model), filename=f"{lora}.gguf")
