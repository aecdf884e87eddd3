"""Routes that begin a conversation, change who takes part in it, and add messages that no model has written."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Annotated, Literal

from fastapi import APIRouter
from pydantic import Field
from starlette.requests import Request

from modules.app import App
from modules.chat.errors import NothingToAnswer
from modules.conversations.conversation import Conversation
from modules.conversations.errors import ConversationNotFound
from modules.conversations.store import ConversationStore
from modules.core.events import Json
from modules.ui.chat.bodies import MAX_TEXT, Id, Rev
from modules.ui.chat.visitors import Visitors
from modules.ui.sent_values import Body

Mode = Literal["instruct", "chat-instruct", "chat"]
Name = Annotated[str, Field(max_length=300)]
UNUSED_SECONDS = 600.0
"""Age from which an incognito conversation without a message is deleted. A newer one may be open in another window."""


class Participants(Body):
    mode: Mode | None = None
    character: Name | None = None
    persona: Name | None = None


class New(Participants):
    incognito: bool = False
    system: Annotated[str, Field(max_length=MAX_TEXT)] | None = None


class Setup(Participants):
    rev: Rev = None


class Added(Body):
    role: Literal["user", "assistant"]
    content: Annotated[str, Field(max_length=MAX_TEXT)]
    rev: Rev = None


def _delete_unused(store: ConversationStore) -> None:
    """Delete the conversations that are older than UNUSED_SECONDS and have no message."""
    for summary in store.list():
        with suppress(ConversationNotFound):
            if time.time() - summary.updated >= UNUSED_SECONDS and not store.read(summary.id).messages:
                store.delete(summary.id)


def add_setup_routes(router: APIRouter, app: App, visitors: Visitors) -> None:
    """Add the routes to a router for /chat."""

    @router.post("/new")
    def new(request: Request, body: New) -> Json:
        conversation = app.setup.new(body.mode, body.character, body.persona, body.system)
        store = visitors.store(request.scope, incognito=body.incognito)
        if body.incognito:
            _delete_unused(store)
        return {"id": store.add(conversation).id}

    @router.post("/{id}/setup")
    def setup(request: Request, id: Id, body: Setup) -> Json:
        def change(conversation: Conversation) -> None:
            app.setup.change(conversation, body.mode, body.character, body.persona)

        store = visitors.store(request.scope, id)
        app.runs.refuse_while_running(store, id)
        store.change(id, body.rev, change)
        return {}

    @router.post("/{id}/add")
    def add(request: Request, id: Id, body: Added) -> Json:
        store = visitors.store(request.scope, id)
        if not body.content.strip():
            raise NothingToAnswer()
        app.runs.refuse_while_running(store, id)
        return {"message": store.change(id, body.rev, lambda tree: tree.add(body.role, body.content).id)}
