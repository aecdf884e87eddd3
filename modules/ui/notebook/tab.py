"""The Notebook page: the place where the page's script draws, and the event by which it has a model write.

What depends on the generation parameters goes through this event, because Gradio has their values; everything else are
the routes of `routes.py`. Texts are written by the server, whether or not a page is open: see `notebook.runs`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial

from modules.core.errors import NoModelLoaded, OptionError, WebUIError
from modules.core.events import Json
from modules.core.worker_errors import WorkerDied
from modules.notebook.notebook import Beginning, State, continued, picked, regenerated
from modules.notebook.prompts import fit_of, next_tokens
from modules.notebook.runs import Begin
from modules.notebook.store import NotebookStore
from modules.runtime.loaded_model import GENERATE, LoadedModel
from modules.runtime.model_source import awake_model
from modules.ui.chat.visitors import Visitors
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.parameters.tab import ParametersTab
from modules.ui.sent_values import sent_by, text_in
from modules.ui.widgets.option_form import Component

gr = gradio()

ACTIONS = ("generate", "regenerate", "pick", "next", "count")

_BRIDGE = """
window.txNotebookAsk = (request) => trigger("submit", request);
const answer = () => new CustomEvent("tx-notebook-answer", { detail: JSON.parse(props.value) });
watch("value", () => document.dispatchEvent(answer()));
"""


class NotebookTab:
    """Created inside a `gr.Tab`. The page's script asks through `bridge`, and gets a reply in its value."""

    def __init__(self, page: Page, visitors: Visitors) -> None:
        self._page, self._app, self._visitors = page, page.app, visitors
        gr.HTML("<div data-notebook></div>", elem_id="tx-notebook-root")
        self.bridge: Component = gr.HTML(
            "{}", html_template="<i></i>", js_on_load=_BRIDGE, elem_id="tx-notebook-bridge", visible="hidden"
        )

    def listen(self, parameters: ParametersTab) -> None:
        """Attach the handler, once all tabs exist: the model writes with the `parameters` of that tab."""
        self._parameters = parameters
        reads = set(parameters.widgets.values())
        self._page.on(self.bridge.submit, self.ask, reads, [self.bridge], queue=False, trigger_mode="multiple")

    def ask(self, values: Values, event: gr.EventData, request: gr.Request) -> Updates:  # type: ignore[name-defined]
        """Do what the page's script asks for. What cannot be done changes nothing."""
        sent = sent_by(event)
        answer: dict[str, Json] = {"n": sent.get("n")}
        try:
            answer |= self._answer(self._visitors.notebooks(request.request.scope), sent, values)
        except WebUIError as error:
            answer |= {"error": error.say(self._page.language), "status": error.status}
            if isinstance(error, NoModelLoaded | WorkerDied) and self._page.owner:
                answer["load"] = self._app.default_model()
        return {self.bridge: json.dumps(answer)}

    def _answer(self, store: NotebookStore, sent: Mapping[str, Json], values: Values) -> dict[str, Json]:
        """Return the answer. Whatever a hand-made request sent is checked here or by the run."""
        action, name = text_in(sent.get("action")), text_in(sent.get("name"))
        if action not in ACTIONS:
            expected = {"en": f"one of {', '.join(ACTIONS)}", "zh": f"{'、'.join(ACTIONS)} 之一"}
            raise OptionError("action", action[:80], expected)
        models = self._app.models
        model = models.current if action == "count" else awake_model(models)  # typing wakes no model
        if action != "count":
            model.require(GENERATE)
        params = self._parameters.params(values, model.samplers)
        begin = _begin(action, sent, model.info.fim is not None and sent.get("fills") is True)
        if action in ("next", "count"):
            return self._look(action, model, begin(store.read(name).state), params)
        self._app.notebook_runs.start(store, name, text_in(sent.get("rev")) or None, begin, model, params)
        return {"started": name}

    def _look(
        self, action: str, model: LoadedModel, beginning: Beginning, params: Mapping[str, Json]
    ) -> dict[str, Json]:
        if action == "next":
            return {"next": next_tokens(model, beginning, params)}
        return {"fit": fit_of(model, beginning, params)}


def _begin(action: str, sent: Mapping[str, Json], fills: bool) -> Begin:
    """Return where the model is to write, by the positions that the script has sent. -1 stands for the end."""
    if action == "regenerate":
        return partial(regenerated, fills=fills)
    if action == "pick":
        numbers = [_number(sent, key) for key in ("passage", "token", "candidate")]
        return lambda state: picked(state, *numbers)
    at = _number(sent, "at")

    def begin(state: State) -> Beginning:
        end = len(state.text)
        return continued(state, min(at, end) if at >= 0 else end, fills=fills)

    return begin


def _number(sent: Mapping[str, Json], key: str) -> int:
    """Return a number of a request that anybody may have sent; -1 for anything else."""
    value = sent.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else -1
