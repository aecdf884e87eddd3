"""Ask on the Model page whether Python files of a model may run although they changed since the user agreed to them."""

from __future__ import annotations

from modules.core.errors import CodeChanged, ModelNotFound
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.widgets.option_form import Component

gr = gradio()


class CodeConsent:
    """The question and its button, created inside the current Gradio container.

    The files asked about, with their hashes, go to the browser and back, so that only what the user saw is agreed to.
    """

    def __init__(self, page: Page) -> None:
        self._app = page.app
        self.button: Component = gr.Button(page.tr("trust_files"), visible=False, size="sm", elem_id="tx-trust")
        self.asked: Component = gr.JSON({}, visible=False)
        self.parts = (self.button, self.asked)

    def ask(self, error: BaseException | None) -> Updates:
        """Show the button if `error` is about changed files, and hide it otherwise."""
        changed = isinstance(error, CodeChanged)
        asked = {"model": error.model, "code": dict(error.code)} if isinstance(error, CodeChanged) else {}
        return {self.button: gr.update(visible=changed), self.asked: asked}

    def agree(self, values: Values) -> None:
        """Remember the files shown as trusted.

        Raises CodeChanged if they have changed again since, ModelNotFound, Unsupported or SettingsError.
        """
        shown = values.get(self.asked)
        asked = shown if isinstance(shown, dict) else {}
        if not isinstance(asked.get("model"), str):
            raise ModelNotFound(str(asked.get("model")))
        self._app.consent.agree(self._app.record(asked["model"]), asked.get("code") or {})
