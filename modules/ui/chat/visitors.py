"""Decide whose conversations and notebook a request is about."""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from modules.app import App
from modules.conversations.folder import MAX_MEMORY_BYTES
from modules.conversations.store import ConversationStore
from modules.core.recent import Recent
from modules.notebook.store import NotebookStore
from modules.ui.chat.uploads import Uploads
from modules.ui.login import LOGIN

GUEST_COOKIE = "tx-guest"
MAX_GUESTS = 100
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")


class Kept(NamedTuple):
    """The stores and uploads of one visitor. Incognito conversations are in a store that is never on the disk."""

    conversations: ConversationStore
    notebooks: NotebookStore
    incognito: ConversationStore
    uploads: Uploads


class Visitors:
    """The owner has what is in the folder of the server. With --multi-user, each login has a folder of its own, and
    what guests without one write is in memory; their browser's cookie leads to it.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._owner = Kept(app.conversations, app.notebooks, ConversationStore(None), Uploads())
        self._users: dict[str, Kept] = {}
        self._guests: Recent[str, Kept] = Recent(MAX_GUESTS)

    def store(self, scope: Mapping[str, Any], id: str = "", incognito: bool = False) -> ConversationStore:
        """Return the store of the visitor that has the conversation `id`, or with `incognito` the one in memory."""
        kept = self._kept(scope)
        return kept.incognito if incognito or (id and kept.incognito.has(id)) else kept.conversations

    def stores(self, scope: Mapping[str, Any]) -> tuple[ConversationStore, ConversationStore]:
        """Return the conversations of whoever sent the request, and their incognito ones."""
        kept = self._kept(scope)
        return kept.conversations, kept.incognito

    def notebooks(self, scope: Mapping[str, Any]) -> NotebookStore:
        """Return the notebook of whoever sent the request."""
        return self._kept(scope).notebooks

    def uploads(self, scope: Mapping[str, Any]) -> Uploads:
        """Return the files that whoever sent the request has uploaded for messages."""
        return self._kept(scope).uploads

    def _kept(self, scope: Mapping[str, Any]) -> Kept:
        if not self._app.flags.on("multi_user"):
            return self._owner
        if user := scope.get(LOGIN):
            with self._lock:
                if user not in self._users:
                    stores = (self._app.conversations_of(user), self._app.notebooks_of(user))
                    self._users[user] = Kept(*stores, ConversationStore(None), Uploads())
                return self._users[user]
        return self._kept_of_guest(_guest(scope))

    def is_kept(self, scope: Mapping[str, Any]) -> bool:
        """Whether the conversations of that visitor are stored on disk."""
        return not self._app.flags.on("multi_user") or bool(scope.get(LOGIN))

    def introduce(self, scope: Mapping[str, Any], response: Response) -> None:
        """Give a guest without one the cookie that leads to the conversations."""
        if not self.is_kept(scope) and not _guest(scope):
            response.set_cookie(GUEST_COOKIE, secrets.token_urlsafe(16), httponly=True, samesite="lax")

    def _kept_of_guest(self, token: str) -> Kept:
        with self._lock:
            kept = self._guests.get(token) if token else None
            if kept is None:
                stores = (ConversationStore(None), NotebookStore(None), ConversationStore(None))
                kept = Kept(*stores, Uploads(MAX_MEMORY_BYTES))
            if token:
                self._guests[token] = kept
            return kept


def _guest(scope: Mapping[str, Any]) -> str:
    token = Request({"type": "http", "headers": scope.get("headers", [])}).cookies.get(GUEST_COOKIE, "")
    return token if _TOKEN.fullmatch(token) else ""
