"""Ask a server what it is before a model is made of it. The only requests to such servers outside a worker."""

from __future__ import annotations

import re
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
    """What a server is, by the facts about the first of its `models`."""

    facts: ServerFacts
    models: tuple[str, ...]


def examine(url: str, key: str) -> Examined:
    """Return what the server at `url` is, and the names of its models but for LoRAs, at most MOST_MODELS.

    It takes some seconds if the server is slow. Raises OptionError for what is no address or key, and the errors of
    `server_errors`, also for a server without models.
    """
    connection = ServerConnection(Target.parse(url, key), LONGEST_ANSWER)
    try:
        models = _names(connection.ask(MODELS, seconds=DISCOVERY_SECONDS).value)
        if not models:
            raise ServerNotUnderstood(connection.target.origin, MODELS, _NO_MODELS)
        return Examined(discover(connection.ask, Choices(model=models[0])).facts, models)
    finally:
        connection.close()


def _names(body: Json) -> tuple[str, ...]:
    data = body.get("data")
    entries = data if isinstance(data, list) else []
    names = [entry.get("id") for entry in entries if isinstance(entry, dict) and not entry.get("parent")]
    usable = [name for name in names if isinstance(name, str) and re.fullmatch(SERVER_MODEL.pattern, name)]
    return tuple(dict.fromkeys(usable))[:MOST_MODELS]
