"""On the Model tab: which LoRAs change the model in use, with what weights, and what each of them does to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from html import escape

from modules.app import App
from modules.core.lora_errors import LoraNotFound
from modules.lora.catalog import LoraRecord
from modules.lora.manager import DEFAULT_WEIGHT, WEIGHT
from modules.options.option import nearest
from modules.runtime.loaded_model import AppliedLora
from modules.ui.gradio_import import gradio
from modules.ui.handlers import PRIVATE, UNCHECKED, Updates, as_error
from modules.ui.locales import Tr
from modules.ui.widgets import html
from modules.ui.widgets.icons import REFRESH
from modules.ui.widgets.option_form import Component

gr = gradio()

ROWS = """element.addEventListener("input", (event) => {
  const row = event.target.closest("[data-lora]");
  if (row) for (const each of row.querySelectorAll("input")) if (each !== event.target) each.value = event.target.value;
})"""
"""A weight has a slider and a box, which follow each other."""

WEIGHTS = """(names, _) => [names, Object.fromEntries(
  [...document.querySelectorAll("#tx-lora-rows [data-lora]")].map(
    (row) => [row.dataset.lora, row.querySelector("input[type=number]").value]))]"""
"""What the browser adds to the names chosen: the weights that their rows show."""


class LoraCard:
    """Made inside a column. `parts` change with the model in use."""

    def __init__(self, app: App, language: str, tr: Tr) -> None:
        self._app, self._language, self._tr = app, language, tr
        owner = not app.flags.on("multi_user")
        with gr.Column(elem_classes="tx-card", elem_id="tx-loras"):
            with gr.Row(elem_classes="tx-row"):
                self.names: Component = gr.Dropdown(
                    choices=[], multiselect=True, label="LoRA", info=tr("lora_info"), elem_id="tx-lora", scale=1
                )
                self.refresh: Component = gr.Button(
                    tr("lora_refresh"), icon=REFRESH, elem_id="tx-lora-refresh", elem_classes="tx-icon", scale=0
                )
            self.rows: Component = gr.HTML("", elem_id="tx-lora-rows", js_on_load=ROWS)
            with gr.Row(elem_classes="tx-buttons"):
                self.apply: Component = gr.Button(tr("lora_apply"), interactive=owner, elem_id="tx-lora-apply")
                self.remove: Component = gr.Button(tr("lora_remove"), interactive=owner, elem_id="tx-lora-remove")
            self.status: Component = gr.HTML("", elem_id="tx-lora-status")
        self.weights: Component = gr.JSON({}, visible=False)
        self.parts = (self.names, self.rows, self.status)
        self._listen()

    def _listen(self) -> None:
        chosen = {"inputs": [self.names, self.weights], "js": WEIGHTS}
        shown = [self.names, self.rows, self.status]
        self.names.input(self.describe, **chosen, outputs=[self.rows], queue=False, **UNCHECKED)
        self.refresh.click(self.list_again, **chosen, outputs=shown, queue=False, **UNCHECKED)
        changing = {"outputs": shown, "concurrency_limit": None}
        self.apply.click(self.change, **chosen, **changing, **UNCHECKED)
        self.remove.click(self.remove_all, None, **changing, **PRIVATE)
        self.on_page_load = (self.open_page, None, shown)

    def open_page(self) -> Updates:
        """What there is to choose from; chosen are those in force."""
        try:
            choices = self._choices()
            empty = {} if choices else {self.rows: html.info(self._tr("lora_empty"))}
            return {self.names: gr.update(choices=choices)} | self.follow() | empty
        except Exception as error:
            return self._failed(error)

    def list_again(self, names: object, weights: object) -> Updates:
        try:
            choices = self._choices()
            left = [each for each in _names(names) if each in choices]
            rows = self._rows(left, _weights(weights))
            return {self.names: gr.update(choices=choices, value=left), self.rows: rows, self.status: gr.skip()}
        except Exception as error:
            return self._failed(error)

    def describe(self, names: object, weights: object) -> Updates:
        """A row for each LoRA chosen: what it is, what is wrong with it, and its weight."""
        try:
            return {self.rows: self._rows(_names(names), _weights(weights))}
        except Exception as error:
            return {self.rows: self._alert(error)}

    async def change(self, names: object, weights: object) -> AsyncIterator[Updates]:
        """Have the chosen ones in force, and no others."""
        told = _weights(weights)
        asked = {name: told.get(name, DEFAULT_WEIGHT) for name in _names(names)}
        async for updates in self._put(asked):
            yield updates

    async def remove_all(self) -> AsyncIterator[Updates]:
        async for updates in self._put({}):
            yield updates

    async def _put(self, asked: Mapping[str, object]) -> AsyncIterator[Updates]:
        unchanged = {self.names: gr.skip(), self.rows: gr.skip()}
        try:
            self._app.refuse_guests()
            yield unchanged | {self.status: html.info(self._tr("lora_applying"))}
            applying = asyncio.wrap_future(self._app.loras.begin(asked))
            applying.add_done_callback(asyncio.Future.exception)  # if this page is closed, nobody else looks at it
            await asyncio.shield(applying)
        except Exception as error:
            yield unchanged | {self.status: self._alert(error) + self._in_force()}
            return
        emptied = {} if asked else {self.names: [], self.rows: ""}
        yield unchanged | emptied | {self.status: self._in_force()}

    # -- what it shows ------------------------------------------------------------------------------------------------

    def view(self) -> Updates:
        """The model in use may be another one, or have other LoRAs."""
        return {self.names: gr.skip(), self.rows: gr.skip(), self.status: self._in_force()}

    def follow(self) -> Updates:
        """`view`, and if there are LoRAs in force, they are those chosen."""
        weights = {each.name: each.weight for each in self._app.models.status.loras}
        if not weights:
            return {self.rows: gr.skip(), self.status: self._in_force()}
        names = gr.update(choices=self._choices(), value=list(weights))  # the page may not know them yet
        return {self.names: names, self.rows: self._rows(list(weights), weights), self.status: self._in_force()}

    def _in_force(self) -> str:
        status, tr = self._app.models.status, self._tr
        problem = self._alert(status.lora_problem) if status.lora_problem else ""
        if status.state != "ready":
            return problem
        if not status.loras:
            return problem + html.info(tr("lora_none"))
        items = "".join(f"<li>{self._effect(each)}</li>" for each in status.loras)
        return f'{problem}<div class="tx-status" role="status">{escape(tr("lora_in_force"))}<ul>{items}</ul></div>'

    def _effect(self, applied: AppliedLora) -> str:
        said = self._tr("lora_effect" if applied.weight else "lora_weightless")
        effect = said.format(weight=f"{applied.weight:g}", effect=f"{applied.effect:.3g}")
        return f"<b>{escape(applied.name)}</b> {escape(effect)}"

    def _rows(self, names: list[str], weights: Mapping[str, object]) -> str:
        present = {each.name: each for each in self._app.loras.catalog.all()}
        if not present and not names:
            return html.info(self._tr("lora_empty"))
        rows = [
            self._row(present[name], weights.get(name, DEFAULT_WEIGHT))
            if name in present
            else self._alert(LoraNotFound(name, nearest(name, present)))
            for name in names
        ]
        return "".join(rows)

    def _row(self, record: LoraRecord, weight: object) -> str:
        label = escape(f"{self._tr('lora_weight')}: {record.name}", quote=True)
        shown = f'step="{WEIGHT.step}" value="{escape(str(weight), quote=True)}" aria-label="{label}"'
        limits = f'min="{WEIGHT.minimum}" max="{WEIGHT.maximum}" {shown}'
        chips = "".join(f"<span>{escape(each)}</span>" for each in self._facts(record) if each)
        problem = self._alert(record.problem) if record.problem else ""
        return (
            f'<div class="tx-lora" data-lora="{escape(record.name, quote=True)}">'
            f'<p class="tx-lora-name" title="{escape(record.name, quote=True)}">{html.squeezable(record.name)}</p>'
            f'<div class="tx-chips">{chips}</div>{problem}'
            f'<div class="tx-lora-weight"><span>{escape(self._tr("lora_weight"))}</span>'
            f'<input type="range" {limits}><input type="number" {limits}></div></div>'
        )

    def _facts(self, record: LoraRecord) -> list[str]:
        ranks = "–".join(str(each) for each in sorted({*record.ranks[:1], *record.ranks[-1:]}))
        return [
            f"{self._tr('lora_rank')} {ranks}" if ranks else "",
            f"alpha {record.alpha:g}" if record.alpha else "",
            ", ".join(record.targets),
            record.stored,
            html.size(record.size) if record.size else "",
            f"{self._tr('lora_base')} {_short(record.base)}" if record.base else "",
        ]

    def _choices(self) -> list[str]:
        return [each.name for each in self._app.loras.catalog.all()]

    def _alert(self, error: BaseException) -> str:
        return html.alert(as_error(error), self._language, self._tr)

    def _failed(self, error: BaseException) -> Updates:
        return {self.names: gr.skip(), self.rows: gr.skip(), self.status: self._alert(error)}


def _short(base: str) -> str:
    """The name of a model, which may be the path it had on somebody's disk."""
    parts = base.replace("\\", "/").rstrip("/").split("/")
    return base if len(parts) <= 2 else parts[-1]


def _names(told: object) -> list[str]:
    """Nothing of what the browser sent is taken on trust."""
    return [each for each in told if isinstance(each, str)] if isinstance(told, list) else []


def _weights(told: object) -> dict[str, object]:
    return told if isinstance(told, dict) else {}
