"""Bounds on Gradio's own routes, all of which are open to everybody who can reach the page.

Gradio accepts files of any size whether or not a component takes any, serves several tools for its developers, and runs
events for browsers that never ask for the results.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import shutil
import sys
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import psutil
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modules.ui.gradio_import import gradio

gr = gradio()
log = logging.getLogger(__name__)

MAX_QUEUED = 64
"""Events that may wait in the queue of one page."""
MAX_UPLOAD = "32mb"
LISTEN_SECONDS = 10.0
"""Time in which a browser must ask for the results of an event."""

_UNUSED = re.compile(
    r"(upload_progress|process_recording|proxy=|deep_link|component_server|stream/|dev/|vibe-|undo-vibe-)"
)
_SESSION = re.compile(rb'"session_hash"\s*:\s*"([^"\\]{1,100})"')


class GradioGate:
    """ASGI middleware in front of the pages, which are `gradio.Blocks` by the path at which they are mounted."""

    def __init__(self, app: ASGIApp, pages: Mapping[str, Any]) -> None:
        self._app, self._pages = app, pages
        self._take_files = {path: takes_files(page) for path, page in pages.items()}
        self._listeners: Counter[str] = Counter()
        self._joined: dict[str, float] = {}
        self._sweeps: set[asyncio.Task[None]] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        root, _, route = scope.get("path", "").partition("/gradio_api/")
        if scope["type"] != "http" or root not in self._pages or not route:
            await self._app(scope, receive, send)
        elif _UNUSED.match(route) or (route.rstrip("/") == "upload" and not self._take_files[root]):
            await JSONResponse({"detail": "This page takes no files."}, 403)(scope, receive, send)
        elif route == "queue/join":
            await self._run(scope, self._noting_session(receive), send)
            self._sweep_later(root)
        elif route == "queue/data":
            session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]
            self._listeners[session] += 1
            try:
                await self._run(scope, receive, send)
            finally:
                self._listeners -= Counter([session])
        else:
            await self._run(scope, receive, send)

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let Gradio answer. What it cannot make sense of, and has answered 500, is one line in the terminal."""
        try:
            await self._app(scope, receive, send)
        except Exception as error:
            log_refusal(error)

    # -- events nobody listens to ------------------------------------------------------------------------------------

    def _noting_session(self, receive: Receive) -> Receive:
        async def noting_receive() -> Message:
            message = await receive()
            for session in _SESSION.findall(message.get("body", b"")):
                self._joined[session.decode("utf-8", "replace")] = time.monotonic()
            return message

        return noting_receive

    def _sweep_later(self, root: str) -> None:
        task = asyncio.create_task(self._sweep(root))
        self._sweeps.add(task)
        task.add_done_callback(self._sweeps.discard)

    async def _sweep(self, root: str) -> None:
        await asyncio.sleep(LISTEN_SECONDS)
        queue, now = self._pages[root]._queue, time.monotonic()
        for session in [*queue.pending_event_ids_session]:
            if not self._listeners[session] and now - self._joined.get(session, 0.0) >= LISTEN_SECONDS:
                await queue.clean_events(session_hash=session)
                queue.pending_event_ids_session.pop(session, None)
                queue.pending_messages_per_session.pop(session, None)
        self._joined = {session: at for session, at in self._joined.items() if now - at < LISTEN_SECONDS}


def takes_files(page: Any) -> bool:
    """Return whether a component of the page receives files from the browser."""
    names = (
        "File",
        "UploadButton",
        "Image",
        "ImageEditor",
        "Audio",
        "Video",
        "MultimodalTextbox",
        "Gallery",
        "Model3D",
    )
    return isinstance(page, gr.Blocks) and any(type(block).__name__ in names for block in page.blocks.values())


def keep_uploads_in(folder: Path) -> None:
    """Let Gradio store files in a subfolder for this process, and remove those of processes that were killed.

    Call it before the pages are built. `remove_uploads` removes the subfolder.
    """
    for other in folder.glob("[1-9]*[0-9]"):
        if not psutil.pid_exists(int(other.name)):
            shutil.rmtree(other, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder / str(os.getpid()))


def remove_uploads(folder: Path) -> None:
    shutil.rmtree(folder / str(os.getpid()), ignore_errors=True)


# -- errors -----------------------------------------------------------------------------------------------------------


def log_refusal(error: BaseException) -> None:
    """Log what Gradio refuses: one line in the terminal, the traceback in the file."""
    words = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    log.warning("the page's server refused an event (%s)", words, exc_info=error, extra={"brief": True})


def log_refusals() -> None:
    """Let Gradio log what it refuses, such as a choice that is not in its menu, in place of printing a traceback.

    Errors of our handlers never get there: see `handlers`.
    """
    for module in (gr.queueing, gr.routes, gr.utils):
        module.traceback = _Traceback(module.traceback)


class _Traceback:
    """The module `traceback`, with a `print_exc` that logs."""

    def __init__(self, original: Any) -> None:
        self._original = getattr(original, "_original", original)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def print_exc(self) -> None:
        error = sys.exc_info()[1]
        if error is not None:
            log_refusal(error)
