"""Read what a browser has sent with an event: anybody may have sent anything."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict


class Body(BaseModel):
    """The JSON body of a request, without keys that are not known."""

    model_config = ConfigDict(strict=True, extra="forbid")


def sent_by(event: Any) -> Mapping[str, Any]:
    """Return the data of an event of a component, such as a `gr.EventData`, by key."""
    return mapping(getattr(event, "_data", None))


def mapping(value: object) -> Mapping[str, Any]:
    """Return a JSON object; an empty one for anything else."""
    return value if isinstance(value, dict) else {}


def text_in(value: object) -> str:
    """Return a text that can be written as UTF-8; "" for anything else."""
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else ""
