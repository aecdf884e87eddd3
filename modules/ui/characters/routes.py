"""The routes that the page's script calls for characters and personas. All are behind the login and the host guard.

With --multi-user, guests may read characters and chat with them, but change nothing. Personas are the owner's alone.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, FastAPI, Query
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from modules.app import App
from modules.characters.character import Character
from modules.characters.errors import CharacterNotFound, NameMissing
from modules.characters.example import EXAMPLES
from modules.characters.library import CharacterLibrary
from modules.characters.personas import Persona, Personas
from modules.core.events import Json
from modules.ui.characters.form import CharacterForm, Name, Text, form_of
from modules.ui.chat.bodies import Id, Nothing
from modules.ui.handlers import ErrorRoute, download, language_of
from modules.ui.sent_values import Body

_MEDIA_TYPES = {".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".webp": "image/webp"}


class PersonaForm(Body):
    """`id` is "" for a new persona."""

    id: Id
    name: Name
    bio: Text


def add_routes(server: FastAPI, app: App) -> None:
    """Add the routes under /characters and /personas."""
    router = APIRouter(route_class=ErrorRoute, include_in_schema=False)
    _add_list(router, app)
    _add_changes(router, app)
    _add_files(router, app)
    _add_personas(router, app)
    _add_bin(router, app, "characters", app.characters)
    _add_bin(router, app, "personas", app.personas)
    server.include_router(router)


def _add_list(router: APIRouter, app: App) -> None:
    @router.get("/characters/list")
    def list_characters(request: Request, q: Annotated[str, Query(max_length=200)] = "") -> Json:
        language, words = language_of(request), q.casefold().split()
        found = [
            {
                "id": one.id,
                "name": one.name,
                "line": one.line,
                "picture": one.picture,
                "png": one.has_png,
                "problem": one.problem[language] if one.problem else "",
            }
            for one in app.characters.list()
            if all(word in f"{one.name} {one.id} {one.details}".casefold() for word in words)
        ]
        return {"characters": found, "owner": not app.flags.on("multi_user"), "bin": len(app.characters.deleted())}

    @router.get("/characters/{id}/form")
    def read(id: Id) -> Json:
        return {**form_of(app.characters, id), "owner": not app.flags.on("multi_user")}


def _add_changes(router: APIRouter, app: App) -> None:
    @router.post("/characters/save")
    def save(body: CharacterForm) -> Json:
        app.refuse_guests()
        if not body.name.strip():
            raise NameMissing()
        start = app.characters.read(body.id) if body.id else Character("", "")
        saved = app.characters.save(body.apply_to(start), body.version if body.id else None)
        return form_of(app.characters, saved.id)

    @router.post("/characters/example")
    def add_example(request: Request, body: Nothing) -> Json:
        app.refuse_guests()
        return {"id": app.characters.save(EXAMPLES[language_of(request)]).id}


def _add_files(router: APIRouter, app: App) -> None:
    @router.post("/characters/import")
    async def import_character(request: Request, name: Annotated[str, Query(max_length=300)] = "") -> Json:
        app.refuse_guests()
        data, language = await request.body(), language_of(request)
        imported = await run_in_threadpool(app.characters.import_file, name, data)
        return {"id": imported.id, "warnings": [warning[language] for warning in imported.warnings]}

    @router.post("/characters/{id}/picture")
    async def set_picture(request: Request, id: Id) -> Json:
        app.refuse_guests()
        await run_in_threadpool(app.characters.set_picture, id, await request.body())
        return {"picture": app.characters.picture_version(id)}

    @router.get("/characters/{id}/picture")
    def picture(id: Id, v: Annotated[str, Query(max_length=100)] = "") -> Response:
        path = app.characters.picture(id)
        if path is None:
            raise CharacterNotFound(id)
        kept = "private, max-age=31536000, immutable" if v else "no-cache"
        headers = {"Cache-Control": kept, "X-Content-Type-Options": "nosniff"}
        return FileResponse(path, media_type=_MEDIA_TYPES[path.suffix], headers=headers)

    @router.get("/characters/{id}/export")
    def export(id: Id, format: Annotated[str, Query(max_length=10)] = "png") -> Response:
        return download(app.characters.export(id, format))

    @router.post("/characters/{id}/card")
    async def export_with_picture(request: Request, id: Id) -> Response:
        return download(await run_in_threadpool(app.characters.export, id, "png", await request.body()))


def _add_personas(router: APIRouter, app: App) -> None:
    @router.get("/personas/list")
    def list_personas(request: Request) -> Json:
        language, owner = language_of(request), not app.flags.on("multi_user")
        return {
            "personas": [
                {
                    "id": one.persona.id,
                    "name": one.persona.name,
                    "bio": one.persona.bio,
                    "problem": one.problem[language] if one.problem else "",
                }
                for one in (app.personas.list() if owner else ())
            ],
            "owner": owner,
            "bin": len(app.personas.deleted()) if owner else 0,
        }

    @router.post("/personas/save")
    def save(body: PersonaForm) -> Json:
        app.refuse_guests()
        if not body.name.strip():
            raise NameMissing()
        return {"id": app.personas.save(Persona(body.id, body.name.strip(), body.bio.strip())).id}


def _add_bin(router: APIRouter, app: App, kind: str, files: CharacterLibrary | Personas) -> None:
    """Add the routes that delete files of one kind, bring them back, and empty their bin."""

    @router.post(f"/{kind}/{{id}}/delete")
    def delete(id: Id, body: Nothing) -> Json:
        app.refuse_guests()
        files.delete(id)
        return {}

    @router.post(f"/{kind}/{{id}}/restore")
    def restore(id: Id, body: Nothing) -> Json:
        app.refuse_guests()
        files.restore(id)
        return {}

    @router.get(f"/{kind}/bin")
    def list_bin() -> Json:
        app.refuse_guests()
        return {"deleted": list(files.deleted())}

    @router.post(f"/{kind}/bin/empty")
    def empty_bin(body: Nothing) -> Json:
        app.refuse_guests()
        files.empty_bin(0)
        return {}
