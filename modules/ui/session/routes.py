"""The route by which an open page notices that the server has been restarted."""

from __future__ import annotations

from fastapi import FastAPI

from modules.app import App


def add_route(server: FastAPI, app: App) -> None:
    """Answer `GET /session/process` with what differs between the processes before and after a restart."""

    @server.get("/session/process", include_in_schema=False)
    def process() -> dict[str, str]:
        return {"process": app.restart.process}
