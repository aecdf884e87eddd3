"""The handlers of the list of models: pick, load, delete and restore a model, and empty the bin."""

from __future__ import annotations

from collections.abc import AsyncIterator

from modules.core.errors import NothingPicked, WebUIError
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.model import model_html
from modules.ui.model.loading import Loading
from modules.ui.model.model_card import ModelCard
from modules.ui.model.model_list import sent_name
from modules.ui.model.options_card import OptionsCard
from modules.ui.model.picker import ModelPicker
from modules.ui.widgets import messages
from modules.ui.widgets.messages import decimal_size

gr = gradio()


class ListActions:
    """What the browser sends is validated here: the name of a model must be one of the catalog."""

    def __init__(
        self, page: Page, card: ModelCard, options: OptionsCard, picker: ModelPicker, loading: Loading
    ) -> None:
        self._page, self._app = page, page.app
        self._card, self._options, self._picker, self._loading = card, options, picker, loading

    def pick(self, name: object, baseline: object) -> Updates:
        """Show the model of a row, with its settings, unless the form with that `baseline` already is that model's."""
        text = name if isinstance(name, str) else ""
        picked = self._pick(self._with_model({self._options.baseline: baseline}, text))
        status = self._page.status
        # The failed load of another model is no longer of interest.
        shown = "" if status.error else model_html.load_status(status, self._page.tr, self._page.language)
        return picked | {self._card.status: shown}

    async def load(self, values: Values, event: gr.EventData) -> AsyncIterator[Updates]:  # type: ignore[name-defined]
        """Pick the model of a row and load it, with the form's values if the form is that model's."""
        async for updates in self.load_named(values, sent_name(event)):
            yield updates

    async def load_named(self, values: Values, name: str) -> AsyncIterator[Updates]:
        """Pick the model `name` and load it. Raises NothingPicked or ModelNotFound."""
        values = self._with_model(values, name)
        yield self._pick(values)
        async for updates in self._loading.start(values):
            yield updates

    def _with_model(self, values: Values, name: str) -> Values:
        """Return `values` with the model `name` as the one picked. Raises NothingPicked or ModelNotFound."""
        if not name:
            raise NothingPicked()
        return {**values, self._card.model: self._app.record(name).name}

    def _pick(self, values: Values) -> Updates:
        return {**self._picker.pick(values), self._card.model: values[self._card.model]}

    def delete(self, picked: object, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Move a model to the bin and offer to undo that."""
        entry = self._app.deletion.delete(sent_name(event))
        return self._picker.list_models(picked, undo=entry) | {self._card.status: ""}

    def restore(self, picked: object, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Move a model from the bin back to its place."""
        entry = self._app.deletion.restore(sent_name(event, "id"))
        text = self._page.tr("models_restored").format(name=entry.names[0])
        return self._picker.list_models(picked) | {self._card.status: messages.info(text)}

    def empty_bin(self, picked: object) -> Updates:
        """Delete everything in the bin for good."""
        freed = decimal_size(self._app.deletion.empty())
        text = self._page.tr("models_emptied").format(size=freed)
        return self._picker.list_models(picked) | {self._card.status: messages.info(text)}

    def failed(self, error: WebUIError) -> Updates:
        """Show why a model was not deleted or restored, and the list as it is."""
        return self._picker.list_models(None) | {self._card.status: self._page.alert(error)}
