"""Asked on the Model tab: whether Python files that have changed since they were agreed to may run after all."""

from __future__ import annotations

from modules.app import App
from modules.core.errors import CodeChanged, ModelNotFound
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Updates, Values
from modules.ui.locales import Tr
from modules.ui.widgets.option_form import Component

gr = gradio()


class OwnCode:
    """Made inside the page. What is asked about goes to the browser and back: only what the user saw is agreed to."""

    def __init__(self, app: App, tr: Tr) -> None:
        self._app = app
        self.button: Component = gr.Button(tr("trust_files"), visible=False, size="sm", elem_id="tx-trust")
        self.asked: Component = gr.JSON({}, visible=False)
        self.parts = (self.button, self.asked)

    def ask(self, error: BaseException | None) -> Updates:
        """What a handler returns to show the question that belongs to `error`, if one does."""
        asks = isinstance(error, CodeChanged)
        asked = {"model": error.model, "code": dict(error.code)} if isinstance(error, CodeChanged) else {}
        return {self.button: gr.update(visible=asks), self.asked: asked}

    def agree(self, given: Values) -> None:
        """CodeChanged if the files are no longer what the page has shown; ModelNotFound, Unsupported, SettingsError."""
        shown = given.get(self.asked)
        asked = shown if isinstance(shown, dict) else {}
        if not isinstance(asked.get("model"), str):
            raise ModelNotFound(str(asked.get("model")))
        self._app.consent.agree(self._app.record(asked["model"]), asked.get("code") or {})
