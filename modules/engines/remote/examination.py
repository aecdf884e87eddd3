"""Ask a server what it is before a model is made of it. The only requests to such servers outside a worker."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modules.core.errors import Words
from modules.core.events import Json
from modules.core.server_errors import ServerNotUnderstood
from modules.engines.served.discovery import discover
from modules.engines.served.server_connection import ServerConnection
from modules.engines.served.server_facts import Choices
from modules.engines.served.server_kind import DISCOVERY_SECONDS, ServerFacts
from modules.engines.served.target import Target
from modules.options.load_remote import SERVER_MODEL

MODELS = "/v1/models"
MOST_MODELS = 1000
LONGEST_ANSWER = 16 << 20
"""Bytes. The main process, which has all models and pages to serve, parses it."""
_NO_MODELS: Words = {"en": "it lists no models", "zh": "未列出任何模型"}


@dataclass(frozen=True)
class Examined:
    """A server: its `models`, and the facts about one of them."""

    facts: ServerFacts
    models: tuple[str, ...]


def examine(url: str, key: str) -> Examined:
    """Return what the server at `url` is, and the names of its models but for LoRAs, at most MOST_MODELS.

    Of a server that loads models when they are asked about, one that is loaded is asked about, if there is one. It
    takes some seconds if the server is slow. Raises OptionError for what is no address or key, and the errors of
    `server_errors`, also for a server without models.
    """
    connection = ServerConnection(Target.parse(url, key), LONGEST_ANSWER)
    try:
        entries = _entries(connection.ask(MODELS, seconds=DISCOVERY_SECONDS).value)
        models = _names(entries)
        if not models:
            raise ServerNotUnderstood(connection.target.origin, MODELS, _NO_MODELS)
        loaded = next((name for name in _names(filter(_is_loaded, entries))), models[0])
        return Examined(discover(connection.ask, Choices(model=loaded)).facts, models)
    finally:
        connection.close()


def _entries(body: Json) -> list[dict[str, Json]]:
    data = body.get("data")
    return [entry for entry in data if isinstance(entry, dict)] if isinstance(data, list) else []


def _is_loaded(entry: Mapping[str, Json]) -> bool:
    """Whether a llama-server with many models says that it has loaded this one."""
    status = entry.get("status")
    return isinstance(status, dict) and status.get("value") == "loaded"


def _names(entries: Iterable[Mapping[str, Json]]) -> tuple[str, ...]:
    names = [entry.get("id") for entry in entries if not entry.get("parent")]
    usable = [name for name in names if isinstance(name, str) and re.fullmatch(SERVER_MODEL.pattern, name)]
    return tuple(dict.fromkeys(usable))[:MOST_MODELS]
