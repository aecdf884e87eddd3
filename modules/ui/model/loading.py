"""Load and unload the model from the Model page, show the progress, and keep the page in step with the model in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

from modules.core.errors import LoaderUnavailable, WebUIError
from modules.core.worker_errors import LoadCancelled
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.model import model_html
from modules.ui.model.load_form import LoadForm
from modules.ui.model.lora_card import LoraCard
from modules.ui.model.model_card import ModelCard
from modules.ui.model.options_card import OptionsCard
from modules.ui.preparation_notice import greeting_html
from modules.ui.widgets.option_form import Component

gr = gradio()

POLL_SECONDS = 0.25


@dataclass(frozen=True)
class ModelFollowers:
    """The components outside the Model page that change with the model in use."""

    pill: Component
    version: Component  # the version of the model's status that this page shows
    greeting: Component  # says what to do while there is no model
    truncation: Component  # the longest prompt among the generation parameters: set to the context at each load


class Loading:
    """The handlers that load and unload. `writes` are the components that follow the model in use."""

    def __init__(
        self,
        page: Page,
        card: ModelCard,
        options: OptionsCard,
        loras: LoraCard,
        form: LoadForm,
        followers: ModelFollowers,
    ) -> None:
        self._page, self._models = page, page.app.models
        self._card, self._options, self._loras, self._form = card, options, loras, form
        self._followers = followers
        self.writes = [card.status, card.used, card.unload, followers.pill, followers.version, followers.greeting]
        self.writes += [followers.truncation, *card.code.parts, *loras.parts]

    async def start(self, values: Values) -> AsyncIterator[Updates]:
        """Load what the form asks for, showing the progress. The load goes on if the page is closed."""
        number = self._models.next_number()  # an unload that comes while the load is planned is the newer request
        plan = await asyncio.to_thread(self._form.plan, values)
        load = asyncio.wrap_future(await asyncio.to_thread(self._page.app.loading.begin, plan, number))
        load.add_done_callback(asyncio.Future.exception)  # marks an error as seen if the page is closed meanwhile
        yield self.view()
        version = self._models.status.version
        while not load.done():
            await asyncio.wait({load}, timeout=POLL_SECONDS)
            if self._models.status.version != version:
                version = self._models.status.version
                yield self._progress()
        error = load.exception()
        if error is None:
            yield self.view() | self._following()
            return
        shown = {} if isinstance(error, LoadCancelled) else {self._card.status: self._page.alert(error)}
        if isinstance(error, LoaderUnavailable):  # the loader's packages turned out to be damaged
            shown |= self._options.install.offer(plan.loader, plan.record.format)
        yield self.view() | shown

    async def load_picked(self, values: Values) -> AsyncIterator[Updates]:
        """Load the model just picked if autoload is on, unless it is loaded or crashed its worker the last time."""
        card, status, name = self._card, self._models.status, values[self._card.model]
        picked = isinstance(name, str) and name and values.get(card.newly_picked) is not False
        if not picked or values.get(card.autoload) is not True or (status.state, status.name) == ("ready", name):
            yield {card.status: gr.skip()}  # a load may have been started meanwhile, and shows how it goes
        elif name in self._models.crashed:
            yield self.view() | {card.status: self._page.info("crashed", model=name)}
        else:
            self._page.app.refuse_guests()
            async for updates in self.start(values):
                yield updates

    async def trust_code(self, values: Values) -> AsyncIterator[Updates]:
        """Trust the code that the page lists, then load what the form asks for."""
        await asyncio.to_thread(self._card.code.agree, values)
        async for updates in self.start(values):
            yield updates

    async def unload_model(self) -> Updates:
        """Unload the model or cancel its load. `refresh_view` shows the outcome if nothing newer is shown."""
        await asyncio.to_thread(self._models.unload)
        return {self._card.status: gr.skip()}

    def failed(self, error: WebUIError) -> Updates:
        """Show why a request was not carried out.

        The state of the model is shown with it, so that no later `refresh_view` replaces the error by that state.
        """
        return self.view() | {self._card.status: self._page.alert(error)} | self._card.code.ask(error)

    def refresh_view(self, version: int) -> Updates:
        """Show what another page, the API or a crash has changed since the `version` that this page shows.

        What has not changed is left alone, as it may have been replaced by a message or by what a user picks. A version
        beyond the present one is of a server that has been started again since.
        """
        status = self._models.status
        since = version if version <= status.version else -1
        updates = {component: gr.skip() for component in self.writes} | {self._followers.version: status.version}
        if since < status.loras_version:
            updates |= self._loras.follow()
        if since < status.model_version:
            updates |= self.view() | self._following()
        if version < 0:  # a page that is being opened, which shows what its browser has kept
            updates[self._followers.truncation] = gr.skip()
        return updates

    def view(self) -> Updates:
        """Show the state of the model in use."""
        label = self._page.tr("cancel_load" if self._models.status.state == "loading" else "unload")
        return {
            **self._progress(),
            self._card.unload: gr.update(value=label),
            self._followers.greeting: greeting_html(self._page),
            self._followers.truncation: gr.skip(),
            **self._card.code.ask(None),
            **self._loras.view(),
        }

    def _progress(self) -> Updates:
        """Return the updates that change while a model is loaded."""
        status, page = self._page.status, self._page
        return {
            self._card.status: model_html.load_status(status, page.tr, page.language),
            self._card.used: model_html.used(status),
            self._followers.pill: model_html.pill(status, page.tr),
            self._followers.version: status.version,
        }

    def _following(self) -> Updates:
        """Return the updates that follow a model which has just become ready."""
        status = self._models.status
        context = status.context_length if status.state == "ready" else gr.skip()
        return {self._followers.truncation: context, **self._loras.follow()}
