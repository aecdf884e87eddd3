"""The models that the API lists: those on disk and those in memory, and what each is doing."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

from modules.app import App
from modules.catalog.background_scan import LIST_SECONDS
from modules.catalog.record import ModelRecord
from modules.core.events import Json
from modules.runtime.resident import Resident

_STATUS: Mapping[str, str] = {"ready": "loaded", "loading": "loading", "asleep": "sleeping", "failed": "unloaded"}


def list_models(app: App) -> list[Json]:
    """Return OpenAI's objects of all models, first of those in memory that lie outside the folder of models."""
    residents = {resident.name: resident for resident in app.models.residents()}
    records = app.catalog.models(LIST_SECONDS)
    listed = {record.name for record in records}
    outside = [resident.record for resident in residents.values() if resident.name not in listed]
    return [_model_object(record, residents.get(record.name)) for record in (*outside, *records)]


def describe_model(app: App, name: str) -> Json:
    """Return OpenAI's object of a model. Raises ModelNotFound."""
    resident = _resident(app, name)
    record = resident.record if resident is not None else app.record(name)
    return _model_object(record, resident or _resident(app, record.name))


def model_status(resident: Resident | None) -> dict[str, Json]:
    """Return what a model is doing, as llama-server says it, and whether its own server does not answer."""
    if resident is None:
        return {"value": "unloaded"}
    failed = {"failed": True} if resident.state == "failed" else {}
    return {"value": _STATUS[resident.state]} | failed | ({} if resident.is_reachable else {"unreachable": True})


def _resident(app: App, name: str) -> Resident | None:
    return next((resident for resident in app.models.residents() if resident.name == name), None)


def _model_object(record: ModelRecord, resident: Resident | None) -> Json:
    """Return OpenAI's object with what other servers add. `loaded` is whether the model is in memory, `created` the
    time of its file, and `context_length` its length as it is loaded, else the longest that it supports."""
    created = 0
    with contextlib.suppress(OSError):  # it may just have been deleted
        created = int(record.path.stat().st_mtime)
    return {
        "id": record.name,
        "object": "model",
        "created": created,
        "owned_by": "local",
        "loaded": resident is not None and resident.state == "ready",
        "status": model_status(resident),
        "context_length": (resident.context_length if resident else 0) or record.context_length or None,
        "input_modalities": ["text", "image"] if _reads_images(record, resident) else ["text"],
    }


def _reads_images(record: ModelRecord, resident: Resident | None) -> bool:
    """Whether a model reads pictures: as it is loaded, else whether its files have what it needs for that."""
    if resident is not None and resident.state == "ready":
        return resident.images
    return record.images or bool(record.defaults.get("mmproj"))
