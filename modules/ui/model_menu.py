"""The menu behind the model's state in the header: which models there are, and the handlers that load one or unload it.

It is drawn by static/model_menu.js, which asks for the models by HTTP when the menu is opened.
"""

from __future__ import annotations

import contextlib
import itertools
import json
from collections.abc import AsyncIterator

from fastapi import FastAPI

from modules.app import App
from modules.catalog.record import ModelRecord
from modules.core.errors import ModelNotFound, WebUIError
from modules.core.events import Json
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates, Values
from modules.ui.locales import supported, translator
from modules.ui.model.model_list import kind_of
from modules.ui.model.tab import ModelTab
from modules.ui.widgets.messages import decimal_size
from modules.ui.widgets.option_form import Component

gr = gradio()

_SCRIPT = """document.addEventListener("tx-model", ({ detail }) => {
  trigger(detail.action === "load" ? "select" : "stop", detail);
});
watch("value", () => {
  document.dispatchEvent(new CustomEvent("tx-model-refused", { detail: JSON.parse(props.value).text }));
});"""


class ModelMenu:
    """The hidden part of the page through which the menu's script calls the handlers."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self.part: Component = gr.HTML(
            "", html_template="<i></i>", elem_id="tx-model-menu", visible="hidden", js_on_load=_SCRIPT
        )
        self._refusals = itertools.count()
        self._loads: Component = gr.Checkbox(False, visible=False)

    def listen(self, model: ModelTab, version: Component) -> None:
        """Attach the handlers, which are those of the Model page's buttons. `version` is that of the status shown."""
        self._model, on = model, self._page.on
        card, loading = model.card, model.loading
        writes = [*loading.writes, *model.options.install.parts, self.part]
        reads = {card.model, model.options.baseline}
        shown = [*model.picker.writes, self._loads]
        picked = on(self.part.select, self.pick, reads, shown, owner_only=True, queue=False)
        unlimited: Options = {"failed": self.failed, "trigger_mode": "multiple", "concurrency_limit": None}
        on(picked.then, self.load, {*model.form.components, self._loads}, writes, owner_only=True, **unlimited)
        on(picked.then, loading.refresh_view, [version], loading.writes, queue=False)  # a resident was chosen
        stopped = on(
            self.part.stop,
            loading.unload_model,
            None,
            loading.writes,
            failed=loading.failed,
            owner_only=True,
            queue=False,
        )
        on(stopped.then, loading.refresh_view, [version], loading.writes, queue=False)

    def pick(self, values: Values, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Show the model in the Model page's form, to be loaded; a resident becomes the page's model at once.

        A form that is that model's already keeps what was changed in it.
        """
        sent = getattr(event, "_data", None)
        name = sent.get("name") if isinstance(sent, dict) else None
        card, app = self._model.card, self._page.app
        names = [record.name for record in app.selectable_models()]
        is_resident = isinstance(name, str) and self._choose(name)
        if not isinstance(name, str) or name not in names:
            return {self._loads: False}
        menu = {card.model: gr.update(choices=names, value=name), self._loads: not is_resident}
        if self._model.options.is_form_of(name, values):
            return menu
        return {**self._model.picker.show(name), **menu}

    def failed(self, error: WebUIError) -> Updates:
        """Show why a load was refused, on the Model page and, as that may not be open, by the menu's script."""
        said = error.say(self._page.language).partition("\n")[0]
        refusal = json.dumps({"text": said, "number": next(self._refusals)})  # a second one is news, too
        return {**self._model.loading.failed(error), self.part: refusal}

    def _choose(self, name: str) -> bool:
        """Make a model the page's if it is loaded or asleep; return whether it is."""
        models = self._page.app.models
        chosen = any(one.name == name and one.state in ("ready", "asleep") for one in models.residents())
        if chosen:
            with contextlib.suppress(ModelNotFound):  # it was unloaded just now
                models.choose(name)
        return chosen

    async def load(self, values: Values) -> AsyncIterator[Updates]:
        """Load the model that was picked, if one was."""
        if values[self._loads] is not True:
            yield {self._model.card.status: gr.skip()}
            return
        async for updates in self._model.loading.start(values):
            yield updates


def add_route(server: FastAPI, app: App) -> None:
    """Answer `GET /models/list` with the models to choose from and the state of the one in use."""

    @server.get("/models/list", include_in_schema=False)
    def models(lang: str = "") -> dict[str, Json]:
        language, is_owner = supported(lang), not app.flags.on("multi_user")
        return {
            "models": [_facts(record, language, is_owner) for record in app.selectable_models()],
            "status": _status(app, language),
            "owner": is_owner,
        }


def _facts(record: ModelRecord, language: str, is_owner: bool) -> dict[str, Json]:
    return {
        "name": record.name,
        "quantization": kind_of(record, is_owner),
        "size": decimal_size(record.size) if record.size else "",
        "problem": record.problem.say(language).partition("\n")[0] if record.problem else "",
    }


def _status(app: App, language: str) -> dict[str, Json]:
    status, tr = app.models.status, translator(language)
    return {
        "state": status.state,
        "name": status.name,
        "progress": status.progress,
        "facts": f"{status.loader} · {tr('context').format(count=status.context_length)}",
        "error": status.error.say(language).partition("\n")[0] if status.error else "",
    }
