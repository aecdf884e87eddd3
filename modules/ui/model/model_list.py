"""The list of models on this computer: to pick, load, unload and delete one, and the bin of the deleted ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from modules.catalog.deletion import BinEntry
from modules.catalog.record import ModelRecord
from modules.loaders.registry import candidates
from modules.planning.fit import TIGHT
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.sent_values import sent_by
from modules.ui.widgets.messages import decimal_size
from modules.ui.widgets.option_form import Component

gr = gradio()

ANNOUNCE_STATE = """const announce = () => document.dispatchEvent(new Event("tx-model-state"));
watch("value", announce);
announce();"""
"""Script of the components from which the list reads which model is picked and which is loaded."""

READ_PICKED = """(model, ...others) => {
  const picked = document.querySelector("#tx-model-list .tx-ml")?.dataset.picked;
  return [picked ?? model, ...others];
}"""
"""Send the model of the row that was pressed last: of pending events, Gradio keeps the data of the first."""

_SCRIPT = (Path(__file__).parent / "model_list.js").read_text(encoding="utf-8")
_TEXT_KEYS = (
    *("search", "none_found", "label", "more", "settings", "copy_path", "copied", "delete", "undo", "restore"),
    *("empty_bin", "bin_info", "is_loaded", "is_asleep", "use", "scanning"),
)


class ModelList:
    """Created inside the current Gradio container. Its value has all models; the script draws those in view.

    `part` emits pick, load_model, unload_model, delete_model, restore_model, empty_bin and refresh_list.
    """

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app
        self.part: Component = gr.HTML(
            self.value([], undo=None),
            html_template='<div class="tx-ml"></div>',
            elem_id="tx-model-list",
            js_on_load=_SCRIPT,
            apply_default_css=False,
        )

    def value(self, records: list[ModelRecord], undo: BinEntry | None) -> dict[str, Any]:
        """Return the value of `part`. With `undo`, the page offers for a moment to undo that deletion."""
        tr = self._page.tr
        # A different value each time: the script is told only of changes.
        scanning = time.monotonic_ns() if records and self._app.catalog.is_scanning else 0
        bin_entries = self._app.deletion.entries() if self._page.owner else []
        texts = {key: tr(f"models_{key}") for key in _TEXT_KEYS} | {"load": tr("load"), "unload": tr("unload")}
        rooms = self._rooms({record.format for record in records})
        total = decimal_size(sum(record.size for record in records))
        summary = tr("models_summary_one" if len(records) == 1 else "models_summary")
        bin_size = decimal_size(sum(entry.size for entry in bin_entries))
        return {
            "models": [self._row(record, rooms.get(record.format, 0)) for record in records],
            "summary": summary.format(count=len(records), size=total).removesuffix(" · 0 B") if records else "",
            "scanning": scanning,
            "bin": [_bin_row(entry) for entry in bin_entries],
            "bin_summary": tr("models_bin").format(count=len(bin_entries), size=bin_size),
            "undo": {"id": undo.id, "text": self._deleted(undo)} if undo else None,
            "texts": texts,
            "owner": self._page.owner,
        }

    def _rooms(self, formats: set[str]) -> dict[str, int]:
        """Return the bytes that weights of each format may take, over all devices; 0 if unknown."""
        rooms: dict[str, int] = {}
        by_kind: dict[str, int] = {}
        for name in formats:
            loaders = candidates(name)
            if not loaders:
                continue
            kind = loaders[0].gpus
            if kind not in by_kind:
                main, *cards = self._app.memory.free_memory(loaders[0])
                by_kind[kind] = main.free and main.free + sum(card.free for card in cards)
            rooms[name] = by_kind[kind]
        return rooms

    def _row(self, record: ModelRecord, room: int) -> Mapping[str, str]:
        tr = self._page.tr
        kind = fit_by_size(record.size, room) if record.problem is None else ""
        missing = decimal_size(max(record.size - room, 0))
        return {
            "name": record.name,
            "size": decimal_size(record.size) if record.size else "",
            "quantization": kind_of(record, self._page.owner),
            "problem": tr(f"state_{record.state}") if record.problem else "",
            "note": tr("duplicate").format(name=record.duplicate_of) if record.duplicate_of else "",
            "verdict": kind,
            "fit": tr(f"models_{kind}").format(missing=missing) if kind else "",
            "folder": str(record.path if record.path.is_dir() else record.path.parent) if self._page.owner else "",
        }

    def _deleted(self, entry: BinEntry) -> str:
        tr, others = self._page.tr, len(entry.names) - 1
        text = tr("models_deleted_with" if others else "models_deleted")
        return text.format(name=entry.names[0], count=others)


def kind_of(record: ModelRecord, is_owner: bool) -> str:
    """Return how a model is quantized, or else its format; of one on a server, where that is, to the owner alone."""
    if record.server and is_owner:
        return urlsplit(record.server.url).netloc
    return record.quantization or record.format


def fit_by_size(size: int, room: int) -> str:
    """Return "fits", "tight" or "short" for weights of `size` bytes; "" if either is unknown.

    The context is not counted: the exact estimate is that of the model picked.
    """
    if not size or not room:
        return ""
    return "short" if size > room else "tight" if size > TIGHT * room else "fits"


def _bin_row(entry: BinEntry) -> dict[str, object]:
    names = entry.names[0] + (f" +{len(entry.names) - 1}" if len(entry.names) > 1 else "")
    return {"id": entry.id, "name": names, "size": decimal_size(entry.size), "deleted": entry.deleted}


def sent_name(event: Any, key: str = "name") -> str:
    """Return a text that the browser sent with an event of the list, which may be anything; else ""."""
    value = sent_by(event).get(key)
    return value if isinstance(value, str) else ""
