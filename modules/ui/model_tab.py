"""The Model tab: which model, by which loader, with which options; load, unload, reload, and how that goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from modules import machine
from modules.app import App, Plan
from modules.catalog import ModelRecord
from modules.errors import LoadCancelled, WebUIError
from modules.load_options import OPTIONS
from modules.loaders import LOADERS, settle, unavailable, values
from modules.options import Value
from modules.ui import markup
from modules.ui.edge import PRIVATE, Updates, Values, as_error
from modules.ui.form import Component, Form, grouped, slug
from modules.ui.icons import REFRESH
from modules.ui.lean import gradio
from modules.ui.locales import Tr, translator

gr = gradio()

POLL_SECONDS = 0.15


@dataclass(frozen=True)
class Shared:
    """Parts of the page that more than one tab changes."""

    pill: Component
    seen: Component  # a State: the version of `Models.status` that this page shows
    bot: Component  # the Chatbot, whose greeting says what to do while there is no model


class ModelTab:
    """Made inside a `gr.Tab`. `on_page_load` are what the page calls when it is opened."""

    def __init__(self, app: App, language: str, shared: Shared) -> None:
        self._app = app
        self._language = language
        self._tr: Tr = translator(language)
        self._shared = shared
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self._build_model_card()
            with gr.Column(scale=7, min_width=320):
                self._build_options_card()
        self._shown = gr.State({})  # the values the form was given, to know which ones the user touched
        self._listen()

    # -- what it looks like -----------------------------------------------------------------------------------------

    def _build_model_card(self) -> None:
        tr = self._tr
        with gr.Column(elem_classes="tx-card"):
            with gr.Row(elem_classes="tx-row"):
                self.model = gr.Dropdown(
                    choices=[], label=tr("model"), info=tr("model_info"), elem_id="tx-model", scale=1
                )
                self.refresh = gr.Button("", icon=REFRESH, elem_id="tx-refresh", elem_classes="tx-icon", scale=0)
            self.facts = gr.HTML("", elem_id="tx-facts")
            with gr.Row(elem_classes="tx-buttons"):
                self.load = gr.Button(tr("load"), variant="primary", elem_id="tx-load")
                self.unload = gr.Button(tr("unload"), elem_id="tx-unload")
                self.reload = gr.Button(tr("reload"), elem_id="tx-reload")
            self.status = gr.HTML("", elem_id="tx-status")

    def _build_options_card(self) -> None:
        tr = self._tr
        classes = {
            key: [f"ld-{slug(loader.name)}" for loader in LOADERS.values() if key in loader.options] for key in OPTIONS
        }
        cores = tr("cores").format(physical=machine.physical_cores(), logical=machine.logical_cores())
        extra = {"threads": cores, "threads_batch": cores}
        self.widgets: dict[str, Component] = {}
        with gr.Column(elem_classes="tx-card", elem_id="tx-opts"):
            self.loader = gr.Dropdown(
                choices=[(self._loader_label(name), name) for name in LOADERS],
                value="llama.cpp",
                label=tr("loader"),
                elem_id="tx-loader",
                filterable=False,
            )
            self.notes = gr.HTML("", elem_id="tx-notes")
            for group, options in grouped(OPTIONS.values()).items():
                used = sorted({name for option in options for name in classes[option.key]})
                with self._group(group, used), gr.Column(elem_classes="tx-grid"):
                    self.widgets |= Form(options, self._language, "tx-opt", classes, extra).widgets

    def _group(self, group: str, classes: list[str]) -> Any:
        if group == "common":
            return gr.Column(elem_classes=["tx-group", *classes])
        return gr.Accordion(self._tr(f"group_{group}"), open=False, elem_classes=["tx-group", *classes])

    def _loader_label(self, name: str) -> str:
        return f"{name} ({self._tr('unavailable')})" if unavailable(LOADERS[name]) else name

    # -- what it does -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        every = {self.model, self.loader, self._shown, *self.widgets.values()}
        chosen = [self.model, self.facts, self.loader, self.notes, self._shown, *self.widgets.values()]
        live = [self.status, self.unload, self._shared.pill, self._shared.seen, self._shared.bot]
        switch = {"fn": None, "inputs": self.loader, "js": SWITCH_LOADER}
        explain = {"fn": self.explain, "inputs": every, "outputs": [self.notes], "trigger_mode": "always_last"}
        self.model.input(self.choose, self.model, chosen, **PRIVATE).then(**explain, **PRIVATE)
        self.loader.change(**switch, show_progress="hidden")
        self.loader.input(**explain, **PRIVATE)
        for widget in self.widgets.values():
            edited = widget.change if isinstance(widget, gr.Textbox) else widget.input
            edited(**explain, **PRIVATE)
        self.refresh.click(self.list_again, self.model, [self.model], queue=False, **PRIVATE)
        # No limit: a second Load must reach `Models`, which gives up the first one.
        loading = {"inputs": every, "outputs": live, "trigger_mode": "multiple", "concurrency_limit": None}
        self.load.click(self.start, **loading, **PRIVATE)
        self.reload.click(self.start, **loading, **PRIVATE)
        self.unload.click(self.stop, None, live, concurrency_limit=None, **PRIVATE)
        self.live = live
        self.on_page_load = (self.open_page, None, chosen)
        self.on_first_view = explain

    def open_page(self) -> Updates:
        """What a page that was just opened shows: the model in use, or the one `--model` named, or the first."""
        names = self._names()
        status = self._app.models.status
        named = self._app.named.name if self._app.named else ""
        preferred = [status.name, named, *names]
        name = next((each for each in preferred if each in names), None)
        return self.choose(name) | {self.model: gr.update(choices=names, value=name)}

    def _names(self) -> list[str]:
        names = [record.name for record in self._app.catalog.models()]
        named = self._app.named
        return names if named is None or named.name in names else [named.name, *names]

    def list_again(self, name: str | None) -> Updates:
        names = self._names()
        return {self.model: gr.update(choices=names, value=name if name in names else None)}

    def choose(self, name: str | None) -> Updates:
        """Show a model's facts and its settings, of every loader, so that switching loaders asks nothing."""
        try:
            if not name:
                hint = self._tr("pick_a_model" if self._names() else "no_models")
                return {self.facts: markup.info(hint), self.notes: ""}
            record = self._app.record(name)
            facts = markup.facts(record, self._tr)
            if record.problem is not None:
                return {self.facts: facts + markup.alert(record.problem, self._language, self._tr), self.notes: ""}
            shown = self._settings_of(record)
            loader = self._app.best_loader(record).name
            updates = {self.widgets[key]: value for key, value in shown.items()}
            return {self.facts: facts, self.loader: loader, self._shown: shown} | updates
        except Exception as error:
            return {self.facts: markup.alert(as_error(error), self._language, self._tr)}

    def _settings_of(self, record: ModelRecord) -> dict[str, Value]:
        shown: dict[str, Value] = {}
        typed = self._app.typed_for(record)
        for loader in LOADERS.values():
            shown |= values(settle(loader, model=record.defaults, saved={}, flags=typed, form={}))
        return shown

    def _plan(self, given: Values) -> Plan:
        """The load that the form asks for. Nothing of what the browser sent is taken on trust."""
        name = given[self.model]
        if not name or not isinstance(name, str):
            raise NothingPicked(self._tr("pick_a_model"))
        loader = str(given[self.loader])
        touched = {
            key: given[widget]
            for key, widget in self.widgets.items()
            if given.get(widget) is not None and given[widget] != (given[self._shown] or {}).get(key)
        }
        return self._app.plan(self._app.record(name), loader, touched)

    async def explain(self, given: Values) -> Updates:
        """What the chosen options would come to, as the engine itself tells it."""
        try:
            told = await asyncio.to_thread(self._app.explain, self._plan(given))
            return {self.notes: markup.explanation(told, self._language, self._tr)}
        except NothingPicked:
            return {self.notes: ""}
        except Exception as error:
            return {self.notes: markup.alert(as_error(error), self._language, self._tr)}

    async def start(self, given: Values) -> AsyncIterator[Updates]:
        """Load what the form says, showing how it goes."""
        try:
            plan = self._plan(given)
        except Exception as error:
            yield {self.status: markup.alert(as_error(error), self._language, self._tr)}
            return
        task = asyncio.ensure_future(asyncio.to_thread(self._app.load, plan))
        while not task.done():
            await asyncio.wait({task}, timeout=POLL_SECONDS)
            yield self.view()
        failure = task.exception()
        if failure is not None and not isinstance(failure, LoadCancelled):
            yield self.view() | {self.status: markup.alert(as_error(failure), self._language, self._tr)}
        else:
            yield self.view()

    async def stop(self) -> Updates:
        """Unload, or give up loading."""
        await asyncio.to_thread(self._app.models.unload)
        return self.view()

    def view(self) -> Updates:
        """The state of the model in use, as this page shows it."""
        status = self._app.models.status
        label = self._tr("cancel_load" if status.state == "loading" else "unload")
        return {
            self.status: markup.model_status(status, self._tr, self._language),
            self.unload: gr.update(value=label),
            self._shared.pill: markup.pill(status, self._tr),
            self._shared.seen: status.version,
            self._shared.bot: gr.update(placeholder=self._tr("hello" if status.state == "ready" else "hello_empty")),
        }

    def look(self, seen: int) -> Updates:
        """What has changed since this page last looked: another tab, the API or a crash may have changed it."""
        changed = seen != self._app.models.status.version
        return self.view() if changed else {component: gr.skip() for component in self.live}


class NothingPicked(WebUIError):
    """Load was pressed with no model chosen."""

    def __init__(self, words: str) -> None:
        self.words = words

    def say(self, language: str) -> str:
        return self.words


SWITCH_LOADER = """(loader) => {
  const slug = String(loader).toLowerCase().replace(/[^a-z0-9]+/g, "-");
  const page = document.querySelector("#tx-page"); // the tab itself may not be drawn yet
  for (const name of [...page.classList]) if (name.startsWith("show-")) page.classList.remove(name);
  page.classList.add("show-" + slug);
}"""


def loader_css() -> str:
    """Hides, by loader, what is not its own. Options are never forced to show, so that other rules may hide them."""
    rules = []
    for name in map(slug, LOADERS):
        page = f"#tx-page.show-{name} #tx-opts"
        rules.append(f"{page} .tx-opt:not(.ld-{name}), {page} .tx-group:not(.ld-{name})")
    return ", ".join(rules) + " { display: none !important; }"
