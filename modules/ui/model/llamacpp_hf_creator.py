"""A fold of the Model page: move a GGUF file and its tokenizer's files into one folder, for the loader llamacpp_HF."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from modules.core.errors import NothingPicked
from modules.downloads.view import JobView
from modules.llamacpp_hf_creator import CreatedModel
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.model.tab import ModelTab
from modules.ui.widgets import messages
from modules.ui.widgets.option_form import Component

gr = gradio()

POLL_SECONDS = 0.3


class CreatorPanel:
    """Created below the Model page, whose menu of models it updates."""

    def __init__(self, page: Page, model_tab: ModelTab) -> None:
        self._page, self._creator, self._picker = page, page.app.creator, model_tab.picker
        tr = page.tr
        with gr.Accordion(tr("creator"), open=False, elem_id="tx-creator", elem_classes="tx-fold") as fold:
            gr.HTML(page.info("creator_info"))
            with gr.Row():
                self.model: Component = gr.Dropdown(
                    choices=[], label=tr("creator_model"), min_width=240, elem_id="tx-creator-model"
                )
                self.address: Component = gr.Textbox(
                    label=tr("creator_address"),
                    placeholder=tr("creator_example"),
                    max_lines=1,
                    min_width=240,
                    elem_id="tx-creator-address",
                )
            self.submit: Component = gr.Button(
                tr("submit"), interactive=page.owner, size="sm", elem_id="tx-creator-submit"
            )
            self.result: Component = gr.HTML("", elem_id="tx-creator-result")
            # The new name of the model that was moved last, by its old name.
            self.renamed: Component = gr.JSON({}, visible=False)
        page.on(fold.expand, self.open, [self.model], [self.model, self.result], alert=self.result, queue=False)
        created = page.on(
            self.submit.click,
            self.create,
            {self.model, self.address},
            [self.model, self.result, self.renamed],
            alert=self.result,
            owner_only=True,
            concurrency_limit=None,
        )
        model_tab.update_menu(created.then, self.follow_rename, [model_tab.card.model, self.renamed])

    def open(self, name: object) -> Updates:
        """List the models that can be moved."""
        return self._menu(name)

    def follow_rename(self, name: object, renamed: object) -> Updates:
        """Update the Model page's menu; a model that was picked and has been moved stays picked."""
        return self._picker.list_models(name, renamed.get(str(name)) if isinstance(renamed, dict) else None)

    def _menu(self, name: object) -> Updates:
        names = self._creator.models()
        return {self.model: gr.update(choices=names, value=name if name in names else None)}

    async def create(self, values: Values) -> AsyncIterator[Updates]:
        """Download the tokenizer's files and move the model, showing the progress. Goes on if the page is closed."""
        name, address = values[self.model], values[self.address]
        if not name or not isinstance(name, str):
            raise NothingPicked()
        creation = await asyncio.to_thread(self._creator.start, name, str(address or ""))
        outcome = asyncio.wrap_future(creation.outcome)
        outcome.add_done_callback(asyncio.Future.exception)  # marks an error as seen if the page is closed meanwhile
        while not outcome.done():
            yield {self.result: messages.info(self._progress(creation.download))}
            await asyncio.wait({outcome}, timeout=POLL_SECONDS)
        error = outcome.exception()
        result = self._page.alert(error) if error else self._created(outcome.result())
        renamed = {} if error else {name: outcome.result().name}
        yield await asyncio.to_thread(self._menu, name) | {self.result: result, self.renamed: renamed}

    def _progress(self, job: JobView | None) -> str:
        tr = self._page.tr
        if job is None or not job.total:
            return tr("creator_asking")
        if job.state == "paused":
            return tr("creator_paused")
        sizes = {"done": messages.decimal_size(job.done), "total": messages.decimal_size(job.total)}
        text = tr("creator_downloading").format(**sizes)
        return f"{text} {job.waiting.say(self._page.language)}" if job.waiting else text

    def _created(self, created: CreatedModel) -> str:
        done = self._page.info("creator_done", model=created.name)
        return done + self._page.alert(created.problem) if created.problem else done
