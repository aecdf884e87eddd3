"""The Parameters page: the generation parameters that the loaded model's loader supports, presets and grammars."""

from __future__ import annotations

from typing import Any

from modules.core.events import Json
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.parameters.effect import EffectPanel, StoreOf
from modules.ui.parameters.form import PARAMETERS_CSS, ParameterForm
from modules.ui.parameters.grammar_row import GrammarRow
from modules.ui.parameters.preset_card import PresetCard
from modules.ui.sent_values import mapping
from modules.ui.widgets.option_form import Component

__all__ = ["PARAMETERS_CSS", "ParametersTab"]

gr = gradio()

_RECALL = """() => {
  const read = (key) => { try { return JSON.parse(localStorage.getItem(key)); } catch { return null; } };
  return [{ values: read("tx-kept"), groups: read("tx-groups") }];
}"""


class ParametersTab:
    """Created inside a `gr.Tab`. `widgets` are those of the parameters by key.

    `store_of` returns the conversations of whoever sent a request.
    """

    def __init__(self, page: Page, store_of: StoreOf) -> None:
        self._page, self._app = page, page.app
        self.grammars = GrammarRow(page)
        with gr.Row(equal_height=False):
            with gr.Column(scale=4, min_width=300, elem_id="tx-params-side"):
                self.presets = PresetCard(page)
                self.effect = EffectPanel(page, store_of)
            with gr.Column(scale=8, min_width=320, elem_classes="tx-card", elem_id="tx-params"):
                self.form = ParameterForm(page, after={"constraints": self.grammars.build})
        self.widgets: dict[str, Component] = self.form.widgets
        self.kept: Component = gr.JSON({}, visible=False)
        self.presets.listen(self.form)
        self.grammars.listen(self.form, self.presets.preset)
        self.effect.listen(self.form)

    def on_page_load(self, load: Any) -> None:
        """Fill the tab when the page is opened, by the event `load`."""
        presets, grammars, form = self.presets, self.grammars, self.form
        writes = [presets.preset, presets.name, presets.line, presets.before, grammars.file, grammars.line]
        writes += [form.bridge, *form.folds.values(), *self.widgets.values()]
        self._page.on(load, self.open_page, [self.kept], writes, js=_RECALL, queue=False, alert=presets.line)

    def open_page(self, kept: object) -> Updates:
        """Show what the browser has kept over the initial values, and open the groups that were open."""
        sent = mapping(kept)
        values, preset = self.form.recalled(sent.get("values"))
        groups = sent.get("groups")
        open_groups = groups if isinstance(groups, list) else []
        return {
            **self.presets.open(preset),
            **self.grammars.open(),
            **{fold: gr.update(open=name in open_groups) for name, fold in self.form.folds.items()},
            **self.form.show(values),
            **self.form.report(values, preset),
        }

    def params(self, values: Values, samplers: frozenset[str]) -> dict[str, Json]:
        """Return the parameters of one answer: see `ParameterForm.params`."""
        return self.form.params(values, samplers)
