"""Decide whose conversations a request is about."""

from __future__ import annotations

import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from modules.app import App
from modules.conversations.store import ConversationStore
from modules.ui.chat.uploads import Uploads
from modules.ui.login import LOGIN

GUEST_COOKIE = "tx-guest"
MAX_GUESTS = 100
_TOKEN = re.compile(r"[A-Za-z0-9_-]{22}")


class Visitors:
    """The owner has the conversations in the folder of the server. With --multi-user, each login has a folder of its
    own, and guests without one have conversations in memory, which their browser's cookie leads to.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self.uploads = Uploads()
        self._lock = threading.Lock()
        self._users: dict[str, ConversationStore] = {}
        self._guests: OrderedDict[str, ConversationStore] = OrderedDict()  # the one used last comes last

    def store(self, scope: Mapping[str, Any]) -> ConversationStore:
        """Return the conversations of whoever sent the request."""
        if not self._app.flags.on("multi_user"):
            return self._app.conversations
        if user := scope.get(LOGIN):
            with self._lock:
                if user not in self._users:
                    self._users[user] = self._app.conversations_of(user)
                return self._users[user]
        return self._guest_store(_guest(scope))

    def is_kept(self, scope: Mapping[str, Any]) -> bool:
        """Whether the conversations of that visitor are stored on disk."""
        return not self._app.flags.on("multi_user") or bool(scope.get(LOGIN))

    def introduce(self, scope: Mapping[str, Any], response: Response) -> None:
        """Give a guest without one the cookie that leads to the conversations."""
        if not self.is_kept(scope) and not _guest(scope):
            response.set_cookie(GUEST_COOKIE, secrets.token_urlsafe(16), httponly=True, samesite="lax")

    def _guest_store(self, token: str) -> ConversationStore:
        with self._lock:
            store = self._guests.pop(token, None) if token else None
            if store is None:
                store = ConversationStore(None)
            if token:
                self._guests[token] = store
                if len(self._guests) > MAX_GUESTS:
                    self._guests.popitem(last=False)
            return store


def _guest(scope: Mapping[str, Any]) -> str:
    token = Request({"type": "http", "headers": scope.get("headers", [])}).cookies.get(GUEST_COOKIE, "")
    return token if _TOKEN.fullmatch(token) else ""
