"""The Model page: its layout, and which handler runs on which event."""

from __future__ import annotations

import itertools
from typing import Any

from modules.ui.gradio_import import gradio
from modules.ui.handlers import STALE_MENU, Options, Page, in_browser
from modules.ui.model.explanation import Explanation
from modules.ui.model.first_run import FirstRun
from modules.ui.model.list_actions import ListActions
from modules.ui.model.load_form import LoadForm
from modules.ui.model.loading import Loading, ModelFollowers
from modules.ui.model.lora_card import LoraCard
from modules.ui.model.model_card import ModelCard
from modules.ui.model.model_list import READ_PICKED
from modules.ui.model.options_card import FILTER, SWITCH_LOADER, OptionsCard
from modules.ui.model.picker import ModelPicker
from modules.ui.model.residents import residents_card
from modules.ui.model.saved_settings import SavedSettings
from modules.ui.preparation_notice import PreparationNotice

gr = gradio()

_NOW: Options = {"queue": False, "trigger_mode": "always_last", **STALE_MENU}


class ModelTab:
    """Created inside a `gr.Tab`. The handlers are methods of the parts: `picker`, `loading`, `settings` …"""

    def __init__(self, page: Page, followers: ModelFollowers) -> None:
        self._page = page
        self.notice = PreparationNotice(page, "tx-model-prepare")
        self.first_run = FirstRun(page, "tx-model-first")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                residents_card()
                self.card = ModelCard(page)
                self.loras = LoraCard(page)
            with gr.Column(scale=7, min_width=320):
                self.options = OptionsCard(page)
        self.form = LoadForm(page.app, self.card, self.options)
        self.picker = ModelPicker(page, self.card, self.options)
        self.settings = SavedSettings(page, self.card, self.options, self.form)
        self.explanation = Explanation(page, self.card, self.options, self.form)
        self.loading = Loading(page, self.card, self.options, self.loras, self.form, followers)
        self.actions = ListActions(page, self.card, self.options, self.picker, self.loading)
        self.menu_events: list[Any] = []
        """What changes which models there are, or which one is picked, but for the load of the page."""
        self._listen_to_form()
        self._listen_to_list()
        self._listen_to_settings()
        self._listen_to_loading(followers)

    def _listen_to_form(self) -> None:
        card, options, picker = self.card, self.options, self.picker
        # Without the loader: a second pick would report the previous one, which need not be in the new model's menu.
        self.picked = self._page.on(
            card.model.input,
            picker.pick,
            {card.model, options.baseline},
            [*picker.writes, card.newly_picked],
            alert=card.facts,
            trigger_mode="always_last",
            queue=False,
        )
        self.menu_events.append(self.picked)
        edited = [
            widget.change if isinstance(widget, gr.Textbox) else widget.input for widget in options.widgets.values()
        ]
        self.explanation.after(self.picked.then, options.loader.input, *edited)
        in_browser(options.loader.change, SWITCH_LOADER, options.loader)
        in_browser(options.filter.change, FILTER, options.filter)
        self.update_menu(card.refresh.click, picker.list_models, [card.model])
        options.install.listen(
            self.form.components,
            [*self.explanation.writes, options.loader],
            options,
            self.explanation.explain,
            self.explanation.failed,
        )

    def update_menu(self, event: Any, handler: Any, reads: list[Any], **options: Any) -> None:
        """Run a handler that updates the menu of models on `event`, then explain the form again."""
        status = self.card.status
        writes = [*self.picker.writes, status]
        options = {"alert": status, "queue": False, **STALE_MENU, **options}
        listed = self._page.on(event, handler, reads, writes, **options)
        self.explanation.after(listed.then)
        self.menu_events.append(listed)

    def load_on(self, event: Any, handler: Any) -> None:
        """Run a handler that picks a model and loads it on `event`."""
        load = self._page.on(
            event,
            handler,
            self.form.components,
            [*self.picker.writes, self.card.newly_picked, *self.loading.writes, *self.options.install.parts],
            failed=self.loading.failed,
            owner_only=True,
            trigger_mode="multiple",
            concurrency_limit=None,
            **STALE_MENU,
        )
        self.explanation.after(load.then)
        self.menu_events.append(load)

    def attach_first_run(self, *cards: FirstRun) -> None:
        """Attach the handlers of the cards that lead to a first answer, once all parts exist that pick models.

        The cards follow the menu of models, which each of them can refresh.
        """
        for card in cards:
            self._listen_to_first_run(card)
        for event, card in itertools.product(self.menu_events, cards):
            self._page.on(event.then, card.show, [self.card.model], [card.part], queue=False, **STALE_MENU)

    def _listen_to_first_run(self, card: FirstRun) -> None:
        picked, on = [self.card.model], self._page.on
        now: Options = {"queue": False, **STALE_MENU}
        on(card.part.get_model, card.get, picked, [card.part], failed=card.failed, owner_only=True, **now)
        on(
            card.part.load_model,
            self.loading.start,
            self.form.components,
            [*self.loading.writes, *self.options.install.parts, card.part],
            failed=lambda error: self.loading.failed(error) | card.failed(error),
            owner_only=True,
            trigger_mode="multiple",
            concurrency_limit=None,
        )
        self.update_menu(card.part.refresh_list, self.picker.list_models, picked)

    def _listen_to_list(self) -> None:
        card, actions, models, on = self.card, self.actions, self.card.models.part, self._page.on
        shown = [*self.picker.writes, card.newly_picked, card.status]
        reads = [card.model, self.options.baseline]
        pick = on(models.pick, actions.pick, reads, shown, alert=card.status, js=READ_PICKED, **_NOW)
        self.explanation.after(pick.then)
        self.menu_events.append(pick)
        self.row_picked = pick
        self.load_on(models.load_model, actions.load)
        self.update_menu(models.refresh_list, self.picker.list_models, [card.model])
        failing: Options = {"failed": actions.failed, "owner_only": True}
        self.update_menu(models.delete_model, actions.delete, [card.model], **failing)
        self.update_menu(models.restore_model, actions.restore, [card.model], **failing)
        self.update_menu(models.empty_bin, actions.empty_bin, [card.model], **failing)

    def _listen_to_settings(self) -> None:
        card, options, settings, on = self.card, self.options, self.settings, self._page.on
        widgets = list(options.widgets.values())
        fields = [options.fitted_n_ctx, *widgets]
        form = self.form.components
        changed = [
            on(options.marks.click, settings.set_option, [card.model], fields, queue=False),
            on(card.memory.click, settings.apply_remedy, None, widgets, queue=False),
            on(card.defaults.click, settings.restore_defaults, form, fields, queue=False),
            on(
                card.save.click,
                settings.save_settings,
                form,
                [card.status, options.baseline],
                alert=card.status,
                owner_only=True,
            ),
        ]
        self.explanation.after(*(event.then for event in changed))
        on(
            card.autoload.input,
            settings.set_autoload,
            [card.autoload],
            [card.status, card.autoload],
            failed=settings.autoload_failed,
            owner_only=True,
            queue=False,
        )

    def _listen_to_loading(self, followers: ModelFollowers) -> None:
        card, loading, on = self.card, self.loading, self._page.on
        form, writes = self.form.components, [*loading.writes, *self.options.install.parts]
        # No limit: a second Load must reach the model manager, which cancels the first one.
        unlimited: Options = {"failed": loading.failed, "trigger_mode": "multiple", "concurrency_limit": None}
        for picked in (self.picked, self.row_picked):
            on(picked.then, loading.load_picked, {*form, card.autoload, card.newly_picked}, writes, **unlimited)
        on(card.load.click, loading.start, form, writes, owner_only=True, **unlimited)
        on(card.reload.click, loading.start, form, writes, owner_only=True, **unlimited)
        on(card.code.button.click, loading.trust_code, {*form, card.code.asked}, writes, owner_only=True, **unlimited)
        for event in (card.unload.click, card.models.part.unload_model):
            stopped = on(
                event,
                loading.unload_model,
                None,
                loading.writes,
                failed=loading.failed,
                owner_only=True,
                queue=False,  # it must not wait for a load
            )
            on(stopped.then, loading.refresh_view, [followers.version], loading.writes, queue=False)

    def on_page_load(self, load: Any) -> None:
        """Fill the tab when the page is opened, by the event `load`."""
        card, writes = self.card, [*self.picker.writes, self.card.autoload]
        opened = self._page.on(load, self.picker.open_page, None, writes, alert=card.facts, queue=False)
        in_browser(opened.then, SWITCH_LOADER, self.options.loader)
        self.explanation.after(opened.then)
        self.loras.on_page_load(load)
