"""A fold of the Model tab: a GGUF file and its tokenizer's files into one folder, for the loader llamacpp_HF."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from modules.app import App
from modules.core.errors import NothingPicked
from modules.downloads.view import JobView
from modules.llamacpp_hf_creator import Created
from modules.ui.gradio_import import gradio
from modules.ui.handlers import PRIVATE, UNCHECKED, Updates, Values, as_error
from modules.ui.locales import Tr, translator
from modules.ui.model.tab import ModelTab
from modules.ui.widgets import html

gr = gradio()

POLL_SECONDS = 0.3


class CreatorPanel:
    """Made below the Model tab, whose menu it brings up to date."""

    def __init__(self, app: App, language: str, model_tab: ModelTab) -> None:
        self._app, self._language = app, language
        self._tr: Tr = translator(language)
        tr, owner = self._tr, not app.flags.on("multi_user")
        with gr.Accordion(tr("creator"), open=False, elem_id="tx-creator") as fold:
            gr.HTML(html.info(tr("creator_info")))
            with gr.Row():
                self.model = gr.Dropdown(
                    choices=[], label=tr("creator_model"), min_width=240, elem_id="tx-creator-model"
                )
                self.address = gr.Textbox(
                    label=tr("creator_address"),
                    placeholder=tr("creator_example"),
                    max_lines=1,
                    min_width=240,
                    elem_id="tx-creator-address",
                )
            self.submit = gr.Button(tr("submit"), interactive=owner, size="sm", elem_id="tx-creator-submit")
            self.result = gr.HTML("", elem_id="tx-creator-result")
            self.created = gr.JSON({}, visible=False)  # the new name of the model that was moved last, by its old one
        fold.expand(self.open, self.model, [self.model, self.result], queue=False, **PRIVATE)
        created = self.submit.click(
            self.create,
            {self.model, self.address},
            [self.model, self.result, self.created],
            concurrency_limit=None,
            **PRIVATE,
        )
        created.then(self.follow, [model_tab.model, self.created], model_tab.listed, queue=False, **UNCHECKED).then(
            **model_tab.explained, **PRIVATE
        )
        self.model_tab = model_tab

    def open(self, name: str | None) -> Updates:
        """The models there are to choose from, now."""
        try:
            return self._listed(name) | {self.result: gr.skip()}
        except Exception as error:
            return {self.model: gr.skip(), self.result: self._alert(error)}

    def follow(self, name: str | None, created: object) -> Updates:
        """The menu of models, with a model that has moved still the one that is chosen."""
        return self.model_tab.list_again(name, created.get(str(name)) if isinstance(created, dict) else None)

    def _listed(self, name: object) -> Updates:
        names = self._app.creator.models()
        return {self.model: gr.update(choices=names, value=name if name in names else None)}

    async def create(self, given: Values) -> AsyncIterator[Updates]:
        """Do it, showing how it goes. It goes on if the page is closed."""
        name, address = given[self.model], given[self.address]
        try:
            self._app.refuse_guests()
            if not name or not isinstance(name, str):
                raise NothingPicked()
            creation = await asyncio.to_thread(self._app.creator.begin, name, str(address or ""))
        except Exception as error:
            yield {self.result: self._alert(error)}
            return
        outcome = asyncio.wrap_future(creation.outcome)
        outcome.add_done_callback(asyncio.Future.exception)  # if this page is closed, nobody else looks at it
        while not outcome.done():
            yield {self.result: html.info(self._progress(creation.download))}
            await asyncio.wait({outcome}, timeout=POLL_SECONDS)
        failure = outcome.exception()
        told = self._alert(failure) if failure else self._told(outcome.result())
        moved = {} if failure else {name: outcome.result().name}
        yield await asyncio.to_thread(self._listed, name) | {self.result: told, self.created: moved}

    def _progress(self, view: JobView | None) -> str:
        if view is None or not view.total:
            return self._tr("creator_asking")
        if view.state == "paused":
            return self._tr("creator_paused")
        sizes = {"done": html.size(view.done), "total": html.size(view.total)}
        said = self._tr("creator_downloading").format(**sizes)
        return f"{said} {view.waiting.say(self._language)}" if view.waiting else said

    def _told(self, created: Created) -> str:
        told = html.info(self._tr("creator_done").format(model=created.name))
        return told + self._alert(created.problem) if created.problem else told

    def _alert(self, error: BaseException) -> str:
        return html.alert(as_error(error), self._language, self._tr)
