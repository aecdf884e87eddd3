"""A fold of the Model page: make a model of a server that runs elsewhere, after asking the server what it is."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from html import escape
from urllib.parse import urlsplit

from modules.core.errors import OptionError, WebUIError, Words
from modules.engines.remote.examination import Examined, examine
from modules.formats.server_file import SUFFIX, ServerFile, checked_url
from modules.loaders.server_samplers import SERVER_NAMES
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates, Values
from modules.ui.model.tab import ModelTab
from modules.ui.widgets import messages
from modules.ui.widgets.option_form import Component

gr = gradio()

_NO_NAME: Words = {"en": "a name for the list of models", "zh": "模型列表中显示的名称"}
_LABELS = {
    "server_url": "connect_address",
    "key": "connect_key",
    "server_model": "connect_model",
    "name": "connect_name",
}
"""Texts of the labels of the fields, by the options that errors name."""
_UNSAFE = re.compile(r'[\\/:*?"<>|\x00-\x1f\x7f]+')


class ConnectPanel:
    """Created below the Model page, whose menu of models it updates."""

    def __init__(self, page: Page, model_tab: ModelTab) -> None:
        self._page, self._app, self._tab = page, page.app, model_tab
        tr = page.tr
        with gr.Accordion(tr("connect"), open=False, elem_id="tx-connect", elem_classes="tx-fold") as fold:
            gr.HTML(page.info("connect_info"), elem_id="tx-connect-info")
            self._build_address()
            self.result: Component = gr.HTML("", elem_id="tx-connect-result")
            with gr.Column(visible=False, elem_id="tx-connect-found") as self.found:
                self._build_model()
            self.saved: Component = gr.HTML("", elem_id="tx-connect-saved")
        self.name_saved: Component = gr.Textbox("", visible=False)
        self._listen(fold)

    def _build_address(self) -> None:
        tr, owner = self._page.tr, self._page.owner
        with gr.Row(elem_classes="tx-connect-row"):
            self.address: Component = gr.Textbox(
                label=tr("connect_address"),
                placeholder="http://192.168.1.20:8000",
                max_lines=1,
                min_width=260,
                scale=3,
                elem_id="tx-connect-address",
            )
            self.key: Component = gr.Textbox(
                label=tr("connect_key"),
                placeholder=tr("connect_key_hint"),
                type="password",
                max_lines=1,
                min_width=220,
                scale=2,
                elem_id="tx-connect-key",
                html_attributes=gr.InputHTMLAttributes(autocomplete="new-password"),
            )
        with gr.Row(elem_classes="tx-buttons tx-dl-buttons"):
            self.test: Component = gr.Button(tr("connect_test"), interactive=owner, elem_id="tx-connect-test")

    def _build_model(self) -> None:
        tr, owner = self._page.tr, self._page.owner
        with gr.Row(elem_classes="tx-connect-row"):
            self.model: Component = gr.Dropdown(
                choices=[],
                label=tr("connect_model"),
                allow_custom_value=True,
                min_width=260,
                scale=3,
                elem_id="tx-connect-model",
            )
            self.name: Component = gr.Textbox(
                label=tr("connect_name"), max_lines=1, min_width=220, scale=2, elem_id="tx-connect-name"
            )
        with gr.Row(elem_classes="tx-buttons tx-dl-buttons"):
            self.save: Component = gr.Button(
                tr("connect_save"), interactive=owner, variant="primary", elem_id="tx-connect-save"
            )

    def _listen(self, fold: Component) -> None:
        page, tab = self._page, self._tab
        page.on(
            fold.expand,
            self.open,
            [tab.card.model, self.address],
            [self.address, self.result],
            alert=self.result,
            queue=False,
        )
        testing: Options = {"failed": self.failed, "owner_only": True, "concurrency_limit": 4}
        reads, writes = {self.address, self.key}, [self.result, self.found, self.model, self.name, self.saved]
        page.on([self.test.click, self.address.submit, self.key.submit], self.examine, reads, writes, **testing)
        page.on(self.model.input, self.propose_name, [self.model, self.address], [self.name], queue=False)
        save = page.on(
            self.save.click,
            self.save_file,
            {self.address, self.key, self.model, self.name},
            [self.saved, self.key, self.name_saved],
            failed=lambda error: {self.saved: self._alert(error), self.name_saved: ""},
            owner_only=True,
        )
        load = page.on(
            save.then,
            self.load,
            {*tab.form.components, self.name_saved},
            [*tab.picker.writes, tab.card.newly_picked, *tab.loading.writes, *tab.options.install.parts],
            failed=tab.loading.failed,
            owner_only=True,
            trigger_mode="multiple",
            concurrency_limit=None,
            preprocess=False,
        )
        tab.explanation.after(load.then)
        tab.menu_events.append(load)

    # -- handlers -----------------------------------------------------------------------------------------------------

    def open(self, picked: object, address: object) -> Updates:
        """Show why nothing can be connected, if that is so; else the address of the server that is picked."""
        self._app.refuse_strangers()
        server = None if address or not isinstance(picked, str) else self._app.record(picked).server
        return {self.result: "", self.address: server.url if server else gr.skip()}

    async def examine(self, values: Values) -> AsyncIterator[Updates]:
        """Ask the server at the address what it is and which models it has."""
        self._app.refuse_strangers()
        url = _url(values[self.address])
        yield self._without_result() | {self.result: self._page.info("connect_asking", address=urlsplit(url).netloc)}
        key = await asyncio.to_thread(self._key, url, values[self.key])
        examined = await asyncio.to_thread(examine, url, key)
        model = examined.models[0] if examined.models else ""
        yield {
            self.result: _result(self._page, examined),
            self.found: gr.update(visible=True),
            self.model: gr.update(choices=list(examined.models), value=model),
            self.name: _proposed(model, url),
        }

    def propose_name(self, model: object, address: object) -> Updates:
        """Name the model as the server does."""
        return {self.name: _proposed(_text(model), _url(address))}

    def save_file(self, values: Values) -> Updates:
        """Write the model's file, and the key if one was typed."""
        self._app.refuse_strangers()
        url, key, name = _url(values[self.address]), _text(values[self.key]), _text(values[self.name])
        if not name:
            raise OptionError("name", "", _NO_NAME)
        server = ServerFile.parse({"url": url, "model": _text(values[self.model])})
        saved = self._app.server_files.save(name.removesuffix(SUFFIX), server, key)
        return {self.saved: self._page.info("connect_saved", file=saved), self.key: "", self.name_saved: saved}

    async def load(self, values: Values) -> AsyncIterator[Updates]:
        """List the model that was saved, pick it and load it."""
        name = _text(values[self.name_saved])
        if not name:  # nothing was saved
            yield {self._tab.card.status: gr.skip()}
            return
        yield self._tab.picker.list_models(None, name)
        async for updates in self._tab.actions.load_named(values, name):
            yield updates

    def failed(self, error: WebUIError) -> Updates:
        """Show why there is no connection."""
        return self._without_result() | {self.result: self._alert(error)}

    def _alert(self, error: WebUIError) -> str:
        """Render an error, which names a field as its label does."""
        if isinstance(error, OptionError) and error.option in _LABELS:
            error = OptionError(self._page.tr(_LABELS[error.option]), error.value, error.expected)
        return self._page.alert(error)

    def _without_result(self) -> Updates:
        return {self.found: gr.update(visible=False), self.saved: ""}

    def _key(self, url: str, typed: object) -> str:
        """Return the key that was typed, else the one that is kept for the server."""
        return _text(typed) or self._app.server_files.key(url)


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _url(address: object) -> str:
    """Return the address as it is kept; "http://" is added where no scheme was typed. Raises OptionError."""
    text = _text(address)
    return checked_url(text if "://" in text or not text else f"http://{text}")


def _proposed(model: str, url: str) -> str:
    """Return a name for the list of models that can be that of a file."""
    last = model.rstrip("/").rpartition("/")[2] or urlsplit(url).netloc
    return _UNSAFE.sub("-", last.removesuffix(".gguf")).strip(" .-")[:100]


def _result(page: Page, examined: Examined) -> str:
    """Render what the server is: its kind, its version, and the context of a request, as chips."""
    tr, facts = page.tr, examined.facts
    chips = [
        f"{SERVER_NAMES[facts.kind]} {facts.version}".strip(),
        tr("context").format(count=facts.context_length) if facts.context_length else "",
        tr("connect_slots").format(count=facts.slots) if facts.slots else "",
        tr("connect_chat_only") if facts.messages else "",
    ]
    shown = "".join(f"<span>{escape(chip)}</span>" for chip in chips if chip)
    return messages.info(tr("connect_done")) + f'<div class="tx-chips">{shown}</div>'
