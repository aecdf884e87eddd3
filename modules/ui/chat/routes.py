"""The routes that the page's script calls for conversations. All are behind the login and the host guard.

A request with an older `rev` than that of the conversation changes nothing and is answered 409.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Query
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from modules.app import App
from modules.chat.participants import INSTRUCT
from modules.chat.pictures import IMAGE, refuse_pictures
from modules.conversations.conversation import Attachment, Conversation
from modules.conversations.errors import ConversationNotFound
from modules.conversations.exporters.blobs import media_type_of
from modules.conversations.exporters.export import export as export_conversation
from modules.conversations.importers.detect import import_file
from modules.conversations.store import ConversationStore
from modules.core.errors import LANGUAGES
from modules.core.events import Json
from modules.ui.chat.bodies import MAX_TEXT, Id, Nothing, Rev, checked_template_kwargs
from modules.ui.chat.event_stream import EventStream, version_of
from modules.ui.chat.markdown import Renderer
from modules.ui.chat.setup_routes import Mode, Name, add_setup_routes
from modules.ui.chat.uploads import Uploads
from modules.ui.chat.visitors import Visitors
from modules.ui.handlers import ErrorRoute, Page, download, language_of
from modules.ui.sent_values import Body
from modules.ui.server_events import stream_response

MAX_TITLE = 1000
_FOR_EVER = "private, max-age=31536000, immutable"
"""Of what is addressed by its hash."""


class Rename(Body):
    title: Annotated[str, Field(max_length=MAX_TITLE)]


class Pin(Body):
    pinned: bool


class OneMessage(Body):
    message: Id
    rev: Rev = None


class Edit(OneMessage):
    content: Annotated[str, Field(max_length=MAX_TEXT)]


class System(Body):
    system: Annotated[str, Field(max_length=MAX_TEXT)]


class Sent(BaseModel):
    """A file that was uploaded before, as the answer to its upload said."""

    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Count(Body):
    text: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    attachments: list[Sent] = []
    system: Annotated[str, Field(max_length=MAX_TEXT)] = ""
    mode: Mode | None = None
    persona: Name | None = None
    template_kwargs: dict[str, Any] = {}


def add_routes(server: FastAPI, app: App, visitors: Visitors) -> None:
    """Add the routes under /chat."""
    router = APIRouter(prefix="/chat", route_class=ErrorRoute, include_in_schema=False)
    _add_list(router, app, visitors)
    _add_bin(router, visitors)
    add_setup_routes(router, app, visitors)
    _add_changes(router, app, visitors)
    _add_prompts(router, app, visitors)
    _add_files(router, app, visitors)
    _add_stream(router, app, visitors)
    server.include_router(router)


def _add_list(router: APIRouter, app: App, visitors: Visitors) -> None:
    @router.get("/list")
    def list_conversations(request: Request, q: Annotated[str, Query(max_length=200)] = "") -> Response:
        stores, language = visitors.stores(request.scope), language_of(request)
        # Taken first: a change meanwhile is a newer version.
        running, version = set().union(*map(app.runs.running, stores)), version_of(stores)
        kept, incognito = ((store.search(q) if q.strip() else store.list()) for store in stores)
        found, hidden = [*incognito, *kept], {one.id for one in incognito}
        characters = {one.id: one.character if one.mode != INSTRUCT else "" for one in found}
        pictures = {id: app.characters.picture_version(id) for id in set(characters.values()) - {""}}
        body = [
            {
                "id": one.id,
                "title": one.title,
                "created": one.created,
                "updated": one.updated,
                "pinned": one.pinned,
                "snippet": one.snippet,
                "problem": one.problem[language] if one.problem else "",
                "running": one.id in running,
                "incognito": one.id in hidden,
                "character": characters[one.id],
                "picture": pictures.get(characters[one.id], ""),
            }
            for one in found
        ]
        facts = {"bin": stores[0].count_deleted(), "kept": visitors.is_kept(request.scope), "version": version}
        response = JSONResponse({"conversations": body, **facts})
        visitors.introduce(request.scope, response)
        return response

    @router.post("/{id}/rename")
    def rename(request: Request, id: Id, body: Rename) -> Json:
        visitors.store(request.scope, id).rename(id, body.title)
        return {}

    @router.post("/{id}/pin")
    def pin(request: Request, id: Id, body: Pin) -> Json:
        visitors.store(request.scope, id).pin(id, body.pinned)
        return {}

    @router.post("/{id}/delete")
    def delete(request: Request, id: Id, body: Nothing) -> Json:
        store = visitors.store(request.scope, id)
        app.runs.stop(store, id)
        store.delete(id)
        if store is visitors.stores(request.scope)[1]:
            store.empty_bin(0)
        return {}

    @router.post("/{id}/restore")
    def restore(request: Request, id: Id, body: Nothing) -> Json:
        visitors.store(request.scope, id).restore(id)
        return {}


def _add_bin(router: APIRouter, visitors: Visitors) -> None:
    @router.get("/bin")
    def list_bin(request: Request) -> Json:
        deleted = visitors.store(request.scope).deleted()
        return {"conversations": [{"id": one.id, "title": one.title, "deleted": one.deleted} for one in deleted]}

    @router.post("/bin/empty")
    def empty_bin(request: Request, body: Nothing) -> Json:
        visitors.store(request.scope).empty_bin(0)
        return {}


def _add_changes(router: APIRouter, app: App, visitors: Visitors) -> None:
    def change(request: Request, id: str, body: OneMessage, edit: Callable[[Conversation], object]) -> Json:
        def checked(conversation: Conversation) -> None:
            conversation.message(body.message)
            edit(conversation)

        store = visitors.store(request.scope, id)
        app.runs.refuse_while_running(store, id)
        store.change(id, body.rev, checked)
        return {}

    @router.post("/{id}/select")
    def select(request: Request, id: Id, body: OneMessage) -> Json:
        return change(request, id, body, lambda tree: tree.select(body.message))

    @router.post("/{id}/edit")
    def edit(request: Request, id: Id, body: Edit) -> Json:
        return change(
            request, id, body, lambda tree: tree.replace(body.message, content=body.content, edited=time.time())
        )

    @router.post("/{id}/remove")
    def remove(request: Request, id: Id, body: OneMessage) -> Json:
        return change(request, id, body, lambda tree: tree.remove(body.message))

    @router.post("/{id}/system")
    def system(request: Request, id: Id, body: System) -> Json:
        def set_system(tree: Conversation) -> None:
            tree.system = body.system

        visitors.store(request.scope, id).change(id, None, set_system)
        return {}

    @router.post("/{id}/branch")
    def branch(request: Request, id: Id, body: OneMessage) -> Json:
        return {"id": visitors.store(request.scope, id).branch(id, body.message).id}

    @router.post("/{id}/stop")
    def stop(request: Request, id: Id, body: Nothing) -> Json:
        app.runs.stop(visitors.store(request.scope, id), id)
        return {}


def _add_prompts(router: APIRouter, app: App, visitors: Visitors) -> None:
    @router.post("/count")
    def count_new(request: Request, body: Count) -> Json:
        new = app.setup.new(body.mode, persona=body.persona, system=body.system)
        return _count(app, visitors.store(request.scope), new, body, visitors.uploads(request.scope))

    @router.post("/{id}/count")
    def count(request: Request, id: Id, body: Count) -> Json:
        store = visitors.store(request.scope, id)
        return _count(app, store, store.read(id), body, visitors.uploads(request.scope))

    @router.post("/{id}/prompt")
    def prompt(request: Request, id: Id, body: Nothing) -> Json:
        return {"text": app.prompts.text(app.models.current, visitors.store(request.scope, id).read(id))}

    @router.get("/{id}/receipt")
    def receipt(request: Request, id: Id, message: Id) -> Json:
        store = visitors.store(request.scope, id)
        paper = store.read(id).message(message).receipt or {}
        prompt = store.blobs.find(str(paper.get("prompt_sha256"))) if isinstance(paper, dict) else None
        return {"receipt": paper, "prompt": prompt.decode("utf-8", "replace") if prompt else ""}


def _count(app: App, store: ConversationStore, conversation: Conversation, body: Count, uploads: Uploads) -> Json:
    """Return how many tokens the next prompt has; `tokens` is None if no model is there to count them."""
    if app.models.status.state != "ready":
        return {"tokens": None, "context": 0}
    model = app.models.current
    attachments = uploads.find([one.sha256 for one in body.attachments])
    if body.text.strip() or attachments:
        conversation.add("user", body.text, attachments=attachments)
    if not conversation.path():
        return {"tokens": 0, "context": model.info.context_length}
    kwargs, read_blob = checked_template_kwargs(body.template_kwargs), store.blobs.find
    tokens = app.prompts.count(model, conversation, kwargs, read_blob)
    return {"tokens": tokens, "context": model.info.context_length}


def _add_files(router: APIRouter, app: App, visitors: Visitors) -> None:
    @router.get("/{id}/export")
    def export(request: Request, id: Id, format: str = "json") -> Response:
        store = visitors.store(request.scope, id)
        return download(export_conversation(store.read(id), format, store.blobs.find, language_of(request)))

    @router.post("/import")
    async def import_conversations(request: Request, name: Annotated[str, Query(max_length=300)] = "") -> Json:
        data, store, language = await request.body(), visitors.store(request.scope), language_of(request)

        def read_and_store() -> Json:
            result = import_file(name, data)
            for content in result.files.values():
                store.blobs.put(content)
            ids = [store.add(conversation).id for conversation in result.conversations]
            return {"ids": ids, "problems": [problem[language] for problem in result.problems]}

        return await run_in_threadpool(read_and_store)

    @router.post("/attachments")
    async def attach(request: Request, name: Annotated[str, Query(max_length=300)] = "", id: Id = "") -> Json:
        data, store = await request.body(), visitors.store(request.scope, id)
        if id and not store.has(id):  # perhaps it was incognito: its files must not reach the disk
            raise ConversationNotFound(id)
        attachment = await run_in_threadpool(visitors.uploads(request.scope).add, store, name, data)
        if app.models.status.state == "ready":
            refuse_pictures(app.models.current, [attachment])
        return {"name": attachment.name, "kind": attachment.kind, "sha256": attachment.sha256, "size": attachment.size}

    @router.get("/attachments/{sha256}")
    def unsent_picture(request: Request, sha256: str, id: Id = "") -> Response:
        return _picture(visitors.store(request.scope, id), sha256, visitors.uploads(request.scope).find([sha256]))

    @router.get("/{id}/picture/{sha256}")
    def picture(request: Request, id: Id, sha256: str) -> Response:
        store = visitors.store(request.scope, id)
        files = (file for message in store.read(id).messages.values() for file in message.attachments)
        return _picture(store, sha256, files)


def _picture(store: ConversationStore, sha256: str, files: Iterable[Attachment]) -> Response:
    """Answer with the picture that one of the `files` is."""
    found = next((file for file in files if file.sha256 == sha256 and file.kind == IMAGE), None)
    data = store.blobs.find(sha256) if found else None
    if found is None or data is None or not (kind := media_type_of(data)).startswith("image/"):
        return Response(status_code=404)
    disposition = f"inline; filename*=UTF-8''{quote(found.name)}"
    caching = _FOR_EVER if store.is_kept else "no-store"  # the cache of a browser is on a disk, too
    headers = {"Content-Disposition": disposition, "Cache-Control": caching, "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type=kind, headers=headers)


def _add_stream(router: APIRouter, app: App, visitors: Visitors) -> None:
    pages = {language: Page(app, language) for language in LANGUAGES}
    renderers = {language: Renderer(language) for language in LANGUAGES}

    @router.get("/events")
    async def events(request: Request, id: Id = "", draft: bool = False) -> Response:
        language = language_of(request)
        store, stores = visitors.store(request.scope, id), visitors.stores(request.scope)
        stream = EventStream(app, pages[language], store, renderers[language], id, draft, stores)
        return stream_response(stream.events())
