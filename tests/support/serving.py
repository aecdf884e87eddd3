"""Serve the API for tests behind the host guard, on a free port, in a thread."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import openai
import uvicorn
from fastapi import FastAPI
from starlette.types import ASGIApp

from modules.api.app import ApiFirst, mount_api
from modules.api.host_guard import guard
from modules.app import App
from modules.config import flags
from modules.planning.load_request import LoadRequest
from modules.runtime.loaded_model import LoadedModel


@contextlib.contextmanager
def api_of(app: App) -> Iterator[str]:
    """Yield the address of a server with the API of `app`, mounted as in server.py."""
    server = FastAPI()
    api = ApiFirst(server, mount_api(server, app))
    with serving(guard(api, app)) as address:
        yield address


class QuickServer(uvicorn.Server):
    """A server that ends as soon as it is told to and its answers are complete.

    uvicorn looks ten times a second whether it should end, and then waits for another tenth of a second at least. The
    hundred servers of the tests waited for that longer than for anything else.
    """

    async def main_loop(self) -> None:
        await self.on_tick(0)  # sets the headers that all answers have
        while not self.should_exit:
            await asyncio.sleep(_TICK_SECONDS)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        end = time.monotonic() + (self.config.timeout_graceful_shutdown or math.inf)
        while (self.server_state.connections or self.server_state.tasks) and time.monotonic() < end:
            await asyncio.sleep(_TICK_SECONDS)
        for task in self.server_state.tasks:
            task.cancel()
        await self.lifespan.shutdown()


_TICK_SECONDS = 0.005


@contextlib.contextmanager
def serving(application: ASGIApp, **settings: Any) -> Iterator[str]:
    """Yield the address of a server; `settings` are uvicorn's."""
    listener = socket.create_server(("127.0.0.1", 0))
    settings = {"log_level": "critical", "timeout_graceful_shutdown": 2, **settings}
    server = QuickServer(uvicorn.Config(application, **settings))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(_TICK_SECONDS)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


CONTEXT = 2048
NO_AUTHORITIES = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""`verify` of clients that use no TLS. By default, each client reads all certificates, in 15 ms of CPU time."""


@dataclass
class Server:
    app: App
    http: httpx.Client
    openai: openai.OpenAI

    def post(self, path: str, body: object, **headers: str) -> httpx.Response:
        header_fields = {name.replace("_", "-"): value for name, value in headers.items()}
        # httpx's own encoding fails for a lone surrogate, half of a character.
        return self.http.post(
            path, content=json.dumps(body), headers={"Content-Type": "application/json", **header_fields}
        )

    def refusal(self, path: str, body: object, **headers: str) -> dict[str, Any]:
        """Return the error that `body` causes, with its HTTP status."""
        response = self.post(path, body, **headers)
        assert set(response.json()) == {"error"}
        error: dict[str, Any] = response.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        return {"status": response.status_code, **error}


@contextlib.contextmanager
def server_of(app: App) -> Iterator[Server]:
    with api_of(app) as address, client_of(f"{address}/v1", timeout=100) as http:
        transport = openai.DefaultHttpxClient(verify=NO_AUTHORITIES)
        url = f"{address}/v1"
        yield Server(app, http, openai.OpenAI(base_url=url, api_key="any", max_retries=0, http_client=transport))


def client_of(address: str, **options: Any) -> httpx.Client:
    """Return a client of a server at `address` that uses no TLS."""
    return httpx.Client(base_url=address, verify=NO_AUTHORITIES, **options)


@contextlib.contextmanager
def smollm2_server(models_folder: Path, settings: str = "") -> Iterator[Server]:
    """Serve SmolLM2; `settings` is the content of settings.yaml."""
    file = models_folder / "settings.yaml"
    file.write_text(settings)
    app = App(flags.parse(["--api", "--model-dir", str(models_folder), "--settings", str(file)]))
    try:
        load_smollm2(app)
        with server_of(app) as server:
            yield server
    finally:
        app.models.unload()


def load_smollm2(app: App) -> LoadedModel:
    (record,) = app.catalog.models()
    return app.loading.load(app.planner.plan(LoadRequest(record, form={"n_ctx": CONTEXT})))
