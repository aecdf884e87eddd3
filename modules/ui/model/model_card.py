"""The components of the card that picks and loads a model; their handlers are in the modules beside this one."""

from __future__ import annotations

from html import escape

from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page
from modules.ui.model.code_consent import CodeConsent
from modules.ui.model.model_html import REMEDY_CLICK
from modules.ui.model.model_list import ANNOUNCE_STATE, ModelList
from modules.ui.widgets.icons import REFRESH
from modules.ui.widgets.option_form import Component

gr = gradio()


class ModelCard:
    """Created inside the current Gradio container."""

    def __init__(self, page: Page) -> None:
        tr = page.tr
        with gr.Column(elem_classes="tx-card", elem_id="tx-model-card"):
            with gr.Row(elem_classes="tx-row tx-ml-head"):
                gr.HTML(f'<h2 class="tx-ml-title">{escape(tr("models_title"))}</h2>')
                # The list below is what people use; the menu holds which model is picked.
                self.model: Component = gr.Dropdown(
                    choices=[], label=tr("model"), elem_id="tx-model", scale=1, visible="hidden"
                )
                self.refresh: Component = gr.Button(
                    tr("refresh"), icon=REFRESH, elem_id="tx-refresh", elem_classes="tx-icon", scale=0
                )
            self.models = ModelList(page)
            self.facts: Component = gr.HTML("", elem_id="tx-facts", js_on_load=ANNOUNCE_STATE)
            self.used: Component = gr.HTML("", elem_id="tx-model-used", js_on_load=ANNOUNCE_STATE)
            self.memory: Component = gr.HTML("", elem_id="tx-memory", js_on_load=REMEDY_CLICK)
            self._build_buttons(page)
            self.autoload: Component = gr.Checkbox(
                interactive=page.owner, label=tr("autoload"), info=tr("autoload_info"), elem_id="tx-autoload"
            )
            self.status: Component = gr.HTML("", elem_id="tx-status")
            self.code = CodeConsent(page)
        self.newly_picked: Component = gr.Checkbox(True, visible=False)

    def _build_buttons(self, page: Page) -> None:
        tr, owner = page.tr, page.owner
        with gr.Row(elem_classes="tx-buttons"):
            self.load: Component = gr.Button(tr("load"), interactive=owner, variant="primary", elem_id="tx-load")
            self.unload: Component = gr.Button(tr("unload"), interactive=owner, elem_id="tx-unload")
            self.reload: Component = gr.Button(tr("reload"), interactive=owner, elem_id="tx-reload")
        with gr.Row(elem_classes="tx-buttons"):
            self.save: Component = gr.Button(tr("save_settings"), interactive=owner, elem_id="tx-save", size="sm")
            self.defaults: Component = gr.Button(tr("defaults"), elem_id="tx-defaults", size="sm")
