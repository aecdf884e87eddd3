"""The LoRA card of the Model page: which LoRAs are applied to the model in use, their weights and their effects."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from html import escape
from pathlib import Path
from typing import Any

from modules.catalog.background_scan import LIST_SECONDS
from modules.core.errors import WebUIError
from modules.core.lora_errors import LoraNotFound
from modules.lora.catalog import LoraRecord
from modules.lora.manager import DEFAULT_WEIGHT, ON_SERVER, WEIGHT
from modules.options.option import nearest
from modules.runtime.loaded_model import AppliedLora
from modules.ui.gradio_import import gradio
from modules.ui.handlers import STALE_MENU, Options, Page, Updates
from modules.ui.widgets import messages
from modules.ui.widgets.icons import REFRESH
from modules.ui.widgets.option_form import Component

gr = gradio()

_SYNC_INPUTS = """element.addEventListener("input", (event) => {
  const row = event.target.closest("[data-lora]");
  const inputs = row ? row.querySelectorAll("input") : [];
  for (const input of inputs) if (input !== event.target) input.value = event.target.value;
})"""
"""Keep the slider and the number box of a weight equal."""

_READ_WEIGHTS = """(names, _) => [names, Object.fromEntries(
  [...document.querySelectorAll("#tx-lora-rows [data-lora]")].map(
    (row) => [row.dataset.lora, row.querySelector("input[type=number]").value]))]"""
"""Add the weights in the rows to the names that are sent to the server."""


class LoraCard:
    """Created inside the current Gradio container. `parts` change with the model in use."""

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app
        tr = page.tr
        with gr.Column(elem_classes="tx-card", elem_id="tx-loras"):
            with gr.Row(elem_classes="tx-row"):
                self.names: Component = gr.Dropdown(
                    choices=[], multiselect=True, label="LoRA", info=tr("lora_info"), elem_id="tx-lora", scale=1
                )
                self.refresh: Component = gr.Button(
                    tr("lora_refresh"), icon=REFRESH, elem_id="tx-lora-refresh", elem_classes="tx-icon", scale=0
                )
            self.rows: Component = gr.HTML("", elem_id="tx-lora-rows", js_on_load=_SYNC_INPUTS)
            with gr.Row(elem_classes="tx-buttons"):
                self.apply_button: Component = gr.Button(
                    tr("lora_apply"), interactive=page.owner, elem_id="tx-lora-apply"
                )
                self.remove_button: Component = gr.Button(
                    tr("lora_remove"), interactive=page.owner, elem_id="tx-lora-remove"
                )
            self.status: Component = gr.HTML("", elem_id="tx-lora-status")
        self.weights: Component = gr.JSON({}, visible=False)
        self.parts = [self.names, self.rows, self.status]
        self._listen()

    def _listen(self) -> None:
        on, reads = self._page.on, [self.names, self.weights]
        describing: Options = {"js": _READ_WEIGHTS, "queue": False, **STALE_MENU}
        on(self.names.input, self.describe, reads, [self.rows], alert=self.rows, **describing)
        self.update_list(self.refresh.click)
        changing: Options = {"failed": self._change_failed, "owner_only": True, "concurrency_limit": None}
        on(self.apply_button.click, self.apply, reads, self.parts, js=_READ_WEIGHTS, **changing, **STALE_MENU)
        on(self.remove_button.click, self.remove_all, None, self.parts, **changing)

    def update_list(self, event: Any) -> None:
        """List the LoRAs again on `event`."""
        reads = [self.names, self.weights]
        options: Options = {"js": _READ_WEIGHTS, "queue": False, **STALE_MENU}
        self._page.on(event, self.list_loras, reads, self.parts, alert=self.status, **options)

    def on_page_load(self, load: Any) -> None:
        """Fill the card when the page is opened, by the event `load`."""
        self._page.on(load, self.open_page, None, self.parts, alert=self.status, queue=False)

    # -- handlers ---------------------------------------------------------------------------------------------------

    def open_page(self) -> Updates:
        """List the LoRAs, with those applied picked."""
        choices = self._choices()
        empty = {} if choices else {self.rows: self._page.info("lora_empty")}
        return {self.names: gr.update(choices=choices)} | self.follow() | empty

    def list_loras(self, names: object, weights: object) -> Updates:
        """List the LoRAs again; those picked that still exist stay picked."""
        choices = self._choices()
        picked = [name for name in _names(names) if name in choices]
        rows = self._rows(picked, _weights(weights))
        return {self.names: gr.update(choices=choices, value=picked), self.rows: rows, self.status: gr.skip()}

    def describe(self, names: object, weights: object) -> Updates:
        """Show a row for each LoRA picked: what it is, what is wrong with it, and its weight."""
        return {self.rows: self._rows(_names(names), _weights(weights))}

    async def apply(self, names: object, weights: object) -> AsyncIterator[Updates]:
        """Apply exactly the LoRAs picked, with the weights in their rows."""
        shown = _weights(weights)
        async for updates in self._apply({name: shown.get(name, DEFAULT_WEIGHT) for name in _names(names)}):
            yield updates

    async def remove_all(self) -> AsyncIterator[Updates]:
        """Apply no LoRA."""
        async for updates in self._apply({}):
            yield updates

    async def _apply(self, weights: Mapping[str, object]) -> AsyncIterator[Updates]:
        yield self._unpicked() | {self.status: self._page.info("lora_applying")}
        applying = asyncio.wrap_future(self._app.loras.begin(weights))
        applying.add_done_callback(asyncio.Future.exception)  # marks an error as seen if the page is closed meanwhile
        await asyncio.shield(applying)
        cleared = {} if weights else {self.names: [], self.rows: ""}
        yield self._unpicked() | cleared | {self.status: self._applied()}

    def _unpicked(self) -> Updates:
        """Leave the menu and the rows as they are."""
        return {self.names: gr.skip(), self.rows: gr.skip()}

    def _change_failed(self, error: WebUIError) -> Updates:
        return self._unpicked() | {self.status: self._page.alert(error) + self._applied()}

    # -- what is shown ------------------------------------------------------------------------------------------------

    def view(self) -> Updates:
        """Show which LoRAs are applied to the model in use."""
        return self._unpicked() | {self.status: self._applied()}

    def follow(self) -> Updates:
        """Show which LoRAs are applied, and pick them if there are any."""
        weights = {applied.name: applied.weight for applied in self._app.models.status.loras}
        if not weights:
            choices = gr.update(choices=self._choices())  # the server of the model in use may offer some
            return {self.names: choices, self.rows: gr.skip(), self.status: self._applied()}
        names = gr.update(choices=self._choices(), value=list(weights))  # the menu may not have them yet
        return {self.names: names, self.rows: self._rows(list(weights), weights), self.status: self._applied()}

    def _applied(self) -> str:
        status, tr = self._app.models.status, self._page.tr
        problem = self._page.alert(status.lora_problem) if status.lora_problem else ""
        if status.state != "ready":
            return problem
        if not status.loras:
            return problem + self._page.info("lora_none")
        items = "".join(f"<li>{self._effect(applied)}</li>" for applied in status.loras)
        return f'{problem}<div class="tx-status" role="status">{escape(tr("lora_applied"))}<ul>{items}</ul></div>'

    def _effect(self, applied: AppliedLora) -> str:
        text = self._page.tr("lora_effect" if applied.weight else "lora_disabled")
        effect = text.format(weight=f"{applied.weight:g}", effect=f"{applied.effect:.3g}")
        return f"<b>{escape(applied.name)}</b> {escape(effect)}"

    def _rows(self, names: list[str], weights: Mapping[str, object]) -> str:
        records = {record.name: record for record in self._app.loras.catalog.all(LIST_SECONDS)}
        offered = self._app.models.status.server_loras
        if not records and not names and not offered:
            return self._page.info("lora_empty")
        records = {name: LoraRecord(name, Path(), ON_SERVER) for name in offered} | records
        return "".join(
            self._row(records[name], weights.get(name, DEFAULT_WEIGHT))
            if name in records
            else self._page.alert(LoraNotFound(name, nearest(name, records)))
            for name in names
        )

    def _row(self, record: LoraRecord, weight: object) -> str:
        name, text = escape(record.name, quote=True), self._page.tr("lora_weight")
        label = escape(f"{text}: {record.name}", quote=True)
        value = f'step="{WEIGHT.step}" value="{escape(str(weight), quote=True)}" aria-label="{label}"'
        limits = f'min="{WEIGHT.minimum}" max="{WEIGHT.maximum}" {value}'
        chips = "".join(f"<span>{escape(fact)}</span>" for fact in self._facts(record) if fact)
        problem = self._page.alert(record.problem) if record.problem else ""
        return (
            f'<div class="tx-lora" data-lora="{name}">'
            f'<p class="tx-lora-name" title="{name}">{messages.shrinkable_name(record.name)}</p>'
            f'<div class="tx-chips">{chips}</div>{problem}'
            f'<div class="tx-lora-weight"><span>{escape(text)}</span>'
            f'<input type="range" {limits}><input type="number" {limits}></div></div>'
        )

    def _facts(self, record: LoraRecord) -> list[str]:
        tr, ranks = self._page.tr, "–".join(map(str, sorted({*record.ranks[:1], *record.ranks[-1:]})))
        return [
            tr("lora_on_server") if record.kind == ON_SERVER else "",
            f"{tr('lora_rank')} {ranks}" if ranks else "",
            f"alpha {record.alpha:g}" if record.alpha else "",
            ", ".join(record.targets),
            record.stored,
            messages.decimal_size(record.size) if record.size else "",
            f"{tr('lora_base')} {_short(record.base)}" if record.base else "",
        ]

    def _choices(self) -> list[str]:
        return self._app.loras.names(LIST_SECONDS)


def _short(base: str) -> str:
    """Return the name of a base model without the folders of the disk on which it was trained."""
    parts = base.replace("\\", "/").rstrip("/").split("/")
    return base if len(parts) <= 2 else parts[-1]


def _names(sent: object) -> list[str]:
    """Return the names among what the browser sent, which may be anything."""
    return [name for name in sent if isinstance(name, str)] if isinstance(sent, list) else []


def _weights(sent: object) -> dict[str, object]:
    return sent if isinstance(sent, dict) else {}
