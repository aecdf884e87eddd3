"""The routes that the page's script calls for the notebook. All are behind the login and the host guard.

A change of another revision than the present one changes nothing and is answered 409.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, FastAPI, Query
from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modules.app import App
from modules.core.errors import LANGUAGES
from modules.core.events import Json
from modules.notebook.errors import TokenChanged
from modules.notebook.notebook import Notebook
from modules.notebook.store import MAX_LENGTH, NotebookStore
from modules.ui.chat.bodies import Nothing
from modules.ui.chat.markdown import Renderer
from modules.ui.chat.visitors import Visitors
from modules.ui.handlers import ErrorRoute, Page, language_of
from modules.ui.notebook.event_stream import NotebookStream
from modules.ui.notebook.view import candidates_json, notebook_json
from modules.ui.sent_values import Body
from modules.ui.server_events import stream_response

MAX_RENDERED = 200_000
"""Characters of a text that is shown as Markdown."""
MAX_PIECES = 200_000
"""Characters of a text that is split into tokens."""

Name = Annotated[str, Field(max_length=300)]
Rev = Annotated[str | None, Field(max_length=64)]


class New(Body):
    text: Annotated[str, Field(max_length=MAX_LENGTH)] = ""
    name: Name = ""


class Save(Body):
    text: Annotated[str, Field(max_length=MAX_LENGTH)]
    rev: Rev = None
    step: bool = False
    """Whether undo is to lead back to the text that this one replaces."""


class Revision(Body):
    rev: Rev = None


class NewName(Body):
    name: Name


class ShownText(Body):
    text: Annotated[str, Field(max_length=MAX_LENGTH)]


def add_routes(server: FastAPI, app: App, visitors: Visitors) -> None:
    """Add the routes under /notebook."""
    router = APIRouter(prefix="/notebook", route_class=ErrorRoute, include_in_schema=False)
    _add_list(router, app, visitors)
    _add_text(router, app, visitors)
    _add_views(router, app, visitors)
    server.include_router(router)


def _add_list(router: APIRouter, app: App, visitors: Visitors) -> None:
    @router.get("/list")
    def list_texts(request: Request, q: Annotated[str, Query(max_length=200)] = "") -> Response:
        store, language = visitors.notebooks(request.scope), language_of(request)
        version, running = store.version, app.notebook_runs.running(store)
        texts = [
            {
                "name": one.name,
                "updated": one.updated,
                "size": one.size,
                "snippet": one.snippet,
                "problem": one.problem[language] if one.problem else "",
                "running": one.name in running,
            }
            for one in store.list(q)
        ]
        kept = visitors.is_kept(request.scope)
        prompts = [one.name for one in store.prompts() if q.lower() in one.name.lower()]
        response = JSONResponse({"texts": texts, "prompts": prompts, "kept": kept, "version": version})
        visitors.introduce(request.scope, response)
        return response

    @router.get("/prompt")
    def prompt(request: Request, name: Annotated[str, Query(max_length=300)]) -> Json:
        return {"text": visitors.notebooks(request.scope).read_prompt(name)}

    @router.post("/new")
    def new(request: Request, body: New) -> Json:
        notebook = visitors.notebooks(request.scope).create(body.text, body.name)
        return {"id": notebook.name, "rev": notebook.rev}

    @router.post("/{name}/rename")
    def rename(request: Request, name: Name, body: NewName) -> Json:
        store = visitors.notebooks(request.scope)
        app.notebook_runs.refuse_if_running(store, name)
        return {"id": store.rename(name, body.name)}

    @router.post("/{name}/delete")
    def delete(request: Request, name: Name, body: Nothing) -> Json:
        store = visitors.notebooks(request.scope)
        app.notebook_runs.stop(store, name)
        store.delete(name)
        return {}

    @router.post("/{name}/restore")
    def restore(request: Request, name: Name, body: Nothing) -> Json:
        visitors.notebooks(request.scope).restore(name)
        return {}


def _add_text(router: APIRouter, app: App, visitors: Visitors) -> None:
    def shown(store: NotebookStore, notebook: Notebook) -> Json:
        return notebook_json(notebook, app.notebook_runs.state(store, notebook.name))

    @router.get("/{name}/text")
    def text(request: Request, name: Name) -> Json:
        store = visitors.notebooks(request.scope)
        return shown(store, store.read(name))

    @router.post("/{name}/save")
    def save(request: Request, name: Name, body: Save) -> Json:
        def typed(notebook: Notebook) -> Notebook:
            return notebook.changed(notebook.state.typed(body.text)) if body.step else notebook.typed(body.text)

        store = visitors.notebooks(request.scope)
        app.notebook_runs.refuse_if_running(store, name)
        saved = store.change(name, body.rev, typed)
        return {"rev": saved.rev, "undo": len(saved.undo), "redo": len(saved.redo)}

    @router.post("/{name}/undo")
    def undo(request: Request, name: Name, body: Revision) -> Json:
        store = visitors.notebooks(request.scope)
        app.notebook_runs.refuse_if_running(store, name)
        return shown(store, store.change(name, body.rev, Notebook.undone))

    @router.post("/{name}/redo")
    def redo(request: Request, name: Name, body: Revision) -> Json:
        store = visitors.notebooks(request.scope)
        app.notebook_runs.refuse_if_running(store, name)
        return shown(store, store.change(name, body.rev, Notebook.redone))

    @router.post("/{name}/stop")
    def stop(request: Request, name: Name, body: Nothing) -> Json:
        app.notebook_runs.stop(visitors.notebooks(request.scope), name)
        return {}


def _add_views(router: APIRouter, app: App, visitors: Visitors) -> None:
    pages = {language: Page(app, language) for language in LANGUAGES}
    renderers = {language: Renderer(language) for language in LANGUAGES}

    @router.get("/events")
    async def events(request: Request, name: Annotated[str, Query(max_length=300)] = "") -> Response:
        stream = NotebookStream(app, pages[language_of(request)], visitors.notebooks(request.scope), name)
        return stream_response(stream.events())

    @router.get("/{name}/candidates")
    def candidates(request: Request, name: Name, passage: int, token: int) -> Json:
        """Return the candidates of the token with that number in the passage that starts at that position."""
        store = visitors.notebooks(request.scope)
        found = next((one for one in store.read(name).state.passages if one.start == passage), None)
        if found is None or not 0 <= token < len(found.tokens):
            raise TokenChanged()
        return candidates_json(found.tokens[token])

    @router.post("/render")
    def render(request: Request, body: ShownText) -> Json:
        whole = len(body.text) <= MAX_RENDERED
        text = body.text if whole else body.text[-MAX_RENDERED:]
        return {"blocks": renderers[language_of(request)].render(text), "whole": whole}

    @router.post("/pieces")
    def pieces(request: Request, body: ShownText) -> Json:
        """Return the tokens of the text: id, text and bytes of each. Of a long text, the last ones."""
        whole = len(body.text) <= MAX_PIECES
        text = body.text if whole else body.text[-MAX_PIECES:]
        return {"pieces": app.models.current.ask("pieces", text=text), "whole": whole}
