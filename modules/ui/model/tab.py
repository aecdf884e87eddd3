"""The Model tab: which model; its settings, remembered and restored; load, unload, reload, and how that goes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from modules.app import App
from modules.core.errors import (
    LoadCancelled,
    LoaderUnavailable,
    ModelProblem,
    NothingPicked,
    OptionError,
    UnknownLoader,
)
from modules.loaders.load_settings import Setting
from modules.options.load import OPTIONS
from modules.options.option import parse_all
from modules.planning.load_request import LoadRequest
from modules.planning.recommendation import compatible_loaders, explain_choice, reason
from modules.runtime.load_plan import LoadPlan
from modules.ui.gradio_import import gradio
from modules.ui.handlers import PRIVATE, UNCHECKED, Shared, Updates, Values, as_error
from modules.ui.locales import Tr, translator
from modules.ui.model.code_consent import OwnCode
from modules.ui.model.lora_card import LoraCard
from modules.ui.model.options_card import FILTER, SWITCH_LOADER, OptionsCard
from modules.ui.preparation_notice import PreparationNotice, greeting
from modules.ui.widgets import html
from modules.ui.widgets.icons import REFRESH

gr = gradio()

POLL_SECONDS = 0.25


class ModelTab:
    """Made inside a `gr.Tab`. `on_page_load` are what the page calls when it is opened."""

    def __init__(self, app: App, language: str, shared: Shared) -> None:
        self._app = app
        self._language = language
        self._tr: Tr = translator(language)
        self._shared = shared
        self.notice = PreparationNotice(app, language, self._tr, "tx-model-prepare")
        with gr.Row(equal_height=False):
            with gr.Column(scale=5, min_width=320):
                self._build_model_card()
                self.loras = LoraCard(app, language, self._tr)
            with gr.Column(scale=7, min_width=320):
                self.options = OptionsCard(app, language, self._tr)
                self.loader, self.notes, self.widgets = self.options.loader, self.options.notes, self.options.widgets
        self._listen()

    # -- what it looks like -----------------------------------------------------------------------------------------

    def _build_model_card(self) -> None:
        tr, owner = self._tr, not self._app.flags.on("multi_user")
        with gr.Column(elem_classes="tx-card"):
            with gr.Row(elem_classes="tx-row"):
                self.model = gr.Dropdown(
                    choices=[], label=tr("model"), info=tr("model_info"), elem_id="tx-model", scale=1
                )
                self.refresh = gr.Button(
                    tr("refresh"), icon=REFRESH, elem_id="tx-refresh", elem_classes="tx-icon", scale=0
                )
            self.facts = gr.HTML("", elem_id="tx-facts")
            self.memory = gr.HTML("", elem_id="tx-memory", js_on_load=html.REMEDY)
            with gr.Row(elem_classes="tx-buttons"):
                self.load = gr.Button(tr("load"), interactive=owner, variant="primary", elem_id="tx-load")
                self.unload = gr.Button(tr("unload"), interactive=owner, elem_id="tx-unload")
                self.reload = gr.Button(tr("reload"), interactive=owner, elem_id="tx-reload")
            with gr.Row(elem_classes="tx-buttons"):
                self.save = gr.Button(tr("save_settings"), interactive=owner, elem_id="tx-save", size="sm")
                self.defaults = gr.Button(tr("defaults"), elem_id="tx-defaults", size="sm")
            self.autoload = gr.Checkbox(
                interactive=owner, label=tr("autoload"), info=tr("autoload_info"), elem_id="tx-autoload"
            )
            self.status = gr.HTML("", elem_id="tx-status")
            self.code = OwnCode(self._app, tr)
        self.anew = gr.Checkbox(True, visible=False)  # whether the model shown was picked just now

    def _alert(self, error: BaseException) -> str:
        return html.alert(as_error(error), self._language, self._tr)

    # -- what it does -----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        widgets = list(self.widgets.values())
        written = [self.options.shown, self.options.reduced, *widgets]
        form = {self.model, self.loader, *written}
        chosen = [self.model, self.facts, self.loader, self.notes, *written]
        shared = self._shared
        self.live = [self.status, self.unload, shared.pill, shared.seen, shared.bot, shared.truncation]
        self.live += [*self.code.parts, *self.loras.parts]
        self.notice.listen()
        install = self.options.install
        told = [self.notes, self.options.marks, self.memory, *install.parts]
        install.listen(self, form, told)
        # One at a time, or the answer to an earlier form could come last.
        explain = {"fn": self.explain, "inputs": form, "outputs": told, "concurrency_limit": 1}
        explain["trigger_mode"] = "always_last"
        # No limit: a second Load must reach `ModelManager`, which gives up the first one.
        loading = {"outputs": [*self.live, *install.parts], "trigger_mode": "multiple", "concurrency_limit": None}
        loading |= PRIVATE

        # Without the loader: told a second time, the one shown so far would be none of those for the new model.
        picking = {"inputs": {self.model, self.options.shown}, "trigger_mode": "always_last", "queue": False}
        picked = self.model.input(self.pick, outputs=[*chosen, self.anew], **picking, **PRIVATE)
        picked.then(**explain, **PRIVATE)
        picked.then(self.start_if_wanted, {*form, self.autoload, self.anew}, **loading)
        self.loader.change(fn=None, inputs=self.loader, js=SWITCH_LOADER, show_progress="hidden")
        self.loader.input(**explain, **PRIVATE)
        for widget in self.widgets.values():
            edited = widget.change if isinstance(widget, gr.Textbox) else widget.input
            edited(**explain, **PRIVATE)
        self.options.filter.change(fn=None, inputs=self.options.filter, js=FILTER, show_progress="hidden")
        reset = self.options.marks.click(
            self.adjust, self.model, [self.options.reduced, *widgets], queue=False, **PRIVATE
        )
        reset.then(**explain, **PRIVATE)
        self.memory.click(self.relieve, None, widgets, queue=False, **PRIVATE).then(**explain, **PRIVATE)
        self.defaults.click(self.show_defaults, form, [self.options.reduced, *widgets], queue=False, **PRIVATE).then(
            **explain, **PRIVATE
        )
        self.save.click(self.remember, form, [self.status, self.options.shown], **PRIVATE).then(**explain, **PRIVATE)
        self.autoload.input(self.set_autoload, self.autoload, [self.status, self.autoload], queue=False, **PRIVATE)
        self.listed, self.explained = [*chosen, self.status], explain
        self.refresh.click(self.list_again, self.model, self.listed, queue=False, **UNCHECKED).then(
            **explain, **PRIVATE
        )
        self.load.click(self.start, form, **loading)
        self.reload.click(self.start, form, **loading)
        self.code.button.click(self.trust, {*form, self.code.asked}, **loading)
        stopped = self.unload.click(self.stop, None, self.live, queue=False, **PRIVATE)  # it waits for no other event
        stopped.then(self.look, shared.seen, self.live, queue=False, **PRIVATE)
        self.on_page_load = (self.open_page, None, [*chosen, self.autoload])

    def open_page(self) -> Updates:
        """What a page just opened shows: the model in use, or the one `--model` named, or the first whole one."""
        try:
            return self._listing() | {self.autoload: self._app.settings.current.autoload_model}
        except Exception as error:
            return {self.facts: self._alert(error)}

    def list_again(self, name: str | None, instead: object = None) -> Updates:
        """The models there are now. Of one chosen that is gone, `instead` or another takes the place."""
        try:
            return self._listing(name, instead)
        except Exception as error:
            return {self.status: self._alert(error)}

    def _listing(self, name: object = None, instead: object = None) -> Updates:
        names = [record.name for record in self._app.selectable_models()]
        chosen = self._app.default_model(name, instead)
        if name and chosen == name:  # unsaid, for by now the user may have chosen another
            return {self.model: gr.update(choices=names)}
        return {**self.choose(chosen), self.model: gr.update(choices=names, value=chosen)}

    def pick(self, given: Values) -> Updates:
        """`choose`; but if the form is that model's already, it stays as it is, for nothing was picked anew.

        Gradio tells of a pick by mouse twice, and of a menu that was only opened and left.
        """
        name = given[self.model]
        told, anew = self.choose(name), not self.options.belongs(given, name)
        return {**(told if anew else {self.facts: told[self.facts]}), self.anew: anew}

    def choose(self, name: str | None) -> Updates:
        """Show a model's facts and its settings, of every loader, so that switching loaders asks nothing."""
        try:
            if not name:
                return {self.facts: self._hint(), self.notes: "", self.options.shown: {}}
            record = self._app.record(name)
            facts = html.facts(record, self._tr)
            if record.problem is not None:
                damage = html.alert(record.problem, self._language, self._tr)
                return {self.facts: facts + damage, self.notes: "", self.options.shown: {}}
            saved, problems = self._app.planner.validated_settings(record)
            facts += "".join(html.alert(each, self._language, self._tr) for each in problems)
            loader = self._app.planner.best_loader(record, saved)
            return {self.facts: facts} | self.options.write(
                record, loader, self._app.planner.form_settings(record, saved)
            )
        except Exception as error:
            return {self.facts: self._alert(error)}

    def _hint(self) -> str:
        """What to do where no model is chosen."""
        if self._app.selectable_models():
            return html.info(self._tr("pick_a_model"))
        problem = self._app.catalog.problem
        return self._alert(problem) if problem else html.info(self._tr("no_models"))

    def _request(self, given: Values) -> LoadRequest:
        """Read the model and its options from the form, which comes from a browser and may hold anything."""
        record = self._app.record(self._picked(given[self.model]))
        saved, _ = self._app.planner.validated_settings(
            record
        )  # what is wrong with the rest is told where the model is chosen
        if not self.options.belongs(given, record.name):  # its own form is on its way
            return LoadRequest(record, self._app.planner.best_loader(record, saved).name, saved=saved)
        shown = self.options.context_by_memory(given)
        if shown:
            saved = {key: raw for key, raw in saved.items() if key != "n_ctx"}
        return LoadRequest(record, self._loader_of(given), self.options.touched(given), saved, shown)

    def _plan(self, given: Values) -> LoadPlan:
        """The load that the form asks for."""
        return self._app.planner.plan(self._request(given))

    def _picked(self, name: object) -> str:
        if not name or not isinstance(name, str):
            raise NothingPicked()
        return name

    def _loader_of(self, given: Values) -> str:
        name = given[self.loader]
        if not isinstance(name, str) or not name:
            raise UnknownLoader(str(name), "")
        return name

    # -- its settings -----------------------------------------------------------------------------------------------

    def remember(self, given: Values) -> Updates:
        """Save the settings of the chosen loader, and say where."""
        try:
            self._app.refuse_guests()
            request = self._request(given)
            record = request.record
            aside = self._app.planner.save(request)
            text = self._tr("saved").format(model=record.name, file=self._app.model_settings.path.name)
            text += self._tr("kept_aside").format(file=aside.name) if aside else ""
            saved, _ = self._app.planner.validated_settings(record)
            settings = self._app.planner.form_settings(record, saved)
            if request.shown_context:  # the form keeps showing the length that memory allowed
                settings["n_ctx"] = Setting(request.shown_context, "memory")
            return {self.status: html.info(text), self.options.shown: self.options.snapshot(record.name, settings)}
        except Exception as error:
            return {self.status: self._alert(error), self.options.shown: gr.skip()}

    def show_defaults(self, given: Values) -> Updates:
        """Fill the form with what the model would get if nothing had been saved or typed. Nothing is saved by that."""
        try:
            return self._anyway(given[self.model])
        except Exception as error:
            as_error(error)
            return self._unchanged()

    def adjust(self, name: str | None, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Set one option: to the value offered at its field, else back to what it would be anyway."""
        try:
            key = str(event._data.get("key"))
            widget = self.widgets.get(key)
            if widget is None:
                return self._unchanged()
            if event._data.get("value") is not None:
                return {widget: OPTIONS[key].parse(event._data["value"])}
            anyway = self._anyway(name)
            fitting = {self.options.reduced: anyway[self.options.reduced]} if widget is self.widgets["n_ctx"] else {}
            return {widget: anyway[widget], **fitting}
        except Exception as error:
            as_error(error)
            return self._unchanged()

    def relieve(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Take a remedy that was offered beside the memory bar."""
        try:
            asked = event._data.get("change")
            changes = parse_all(OPTIONS, asked if isinstance(asked, dict) else {})
            return {self.widgets[key]: value for key, value in changes.items()} or self._unchanged()
        except Exception as error:
            as_error(error)
            return self._unchanged()

    def _unchanged(self) -> Updates:
        """The form as it is. An empty answer would be an error to Gradio."""
        return {widget: gr.skip() for widget in self.widgets.values()}

    def _anyway(self, name: object) -> Updates:
        record = self._app.record(self._picked(name))
        return self.options.fill(self._app.planner.form_settings(record, {}))

    def set_autoload(self, wanted: object) -> Updates:
        try:
            self._app.refuse_guests()
            aside = self._app.settings.set("autoload_model", wanted is True)
            told = html.info(self._tr("kept_aside").format(file=aside.name)) if aside else gr.skip()
            return {self.status: told, self.autoload: gr.skip()}
        except Exception as error:
            return {self.status: self._alert(error), self.autoload: self._app.settings.current.autoload_model}

    # -- loading ----------------------------------------------------------------------------------------------------

    async def explain(self, given: Values) -> Updates:
        """What the chosen options would come to, as the engine itself tells it."""
        install = self.options.install
        try:
            plan = await asyncio.to_thread(self._plan, given)
            told = await asyncio.to_thread(self._app.loading.explain, plan)
            asked = (plan.loader, plan.record.format)
            notes = html.reasons(*self._reasons(plan), self._tr)
            notes += install.told(*asked, html.explanation(told, self._language, self._tr))
            memory = html.memory(await asyncio.to_thread(self._app.memory.fit, plan), self._tr)
            return {self.notes: notes, self.memory: memory} | self.options.marked(plan) | install.ask(*asked)
        except (NothingPicked, ModelProblem):  # what is wrong with a model is told beside its facts
            return {self.notes: "", self.memory: "", self.options.marks: gr.skip()} | install.ask(None)
        except OptionError as error:
            return {self.notes: "", self.memory: gr.skip()} | self.options.refused(error) | install.ask(None)
        except Exception as error:
            return {self.notes: self._alert(error), self.memory: "", self.options.marks: gr.skip()} | install.ask(None)

    def _reasons(self, plan: LoadPlan) -> tuple[str, dict[str, str]]:
        """Why this loader, and what the others would be to the model, by name."""
        others = [each for each in compatible_loaders(plan.record) if each is not plan.loader]
        reasons = {each.name: reason(plan.record, each) for each in others}
        this = explain_choice(plan.record, plan.loader)
        said = {name: words[self._language] for name, words in reasons.items() if words}
        return this[self._language] if this else "", said

    async def start_if_wanted(self, given: Values) -> AsyncIterator[Updates]:
        """Autoload: the model just picked, if that is ticked, and unless it is loaded or would end the worker again."""
        status, name = self._app.models.status, given[self.model]
        nothing = not isinstance(name, str) or not name or given.get(self.anew) is False
        if nothing or given.get(self.autoload) is not True or (status.state, status.name) == ("ready", name):
            yield self.view()
        elif name in self._app.models.crashed:
            yield self.view() | {self.status: html.info(self._tr("deadly").format(model=name))}
        else:
            async for updates in self.start(given):
                yield updates

    async def start(self, given: Values) -> AsyncIterator[Updates]:
        """Load what the form says, showing how it goes."""
        number = self._app.models.next_number()  # an unload that comes while the load is planned is the later wish
        try:
            self._app.refuse_guests()
            plan = await asyncio.to_thread(self._plan, given)
            begun = await asyncio.to_thread(self._app.loading.begin, plan, number)
        except Exception as error:
            yield self._refused(error)
            return
        loading = asyncio.wrap_future(begun)
        loading.add_done_callback(asyncio.Future.exception)  # if this page is closed, nobody else looks at it
        yield self.view()
        seen = self._app.models.status.version
        while not loading.done():
            await asyncio.wait({loading}, timeout=POLL_SECONDS)
            if self._app.models.status.version != seen:
                seen = self._app.models.status.version
                yield self._how_far()
        failure = loading.exception()
        if failure is None:
            yield self.view() | self._followed()
        else:
            told = {} if isinstance(failure, LoadCancelled) else {self.status: self._alert(failure)}
            if isinstance(failure, LoaderUnavailable):  # its packages turned out to be damaged
                told |= self.options.install.ask(plan.loader, plan.record.format)
            yield self.view() | told

    async def trust(self, given: Values) -> AsyncIterator[Updates]:
        """Agree to the code that the page has listed, and load what the form says."""
        try:
            self._app.refuse_guests()
            await asyncio.to_thread(self.code.agree, given)
        except Exception as error:
            yield self._refused(error)
            return
        async for updates in self.start(given):
            yield updates

    def _refused(self, error: Exception) -> Updates:
        """A wish that was not carried out. What has happened to the model is shown too, so that no later `look` puts it
        in place of the reason."""
        return self.view() | {self.status: self._alert(error)} | self.code.ask(error)

    async def stop(self) -> Updates:
        """Unload, or give up loading. `look` shows the outcome, unless the page has gone on to something else."""
        try:
            self._app.refuse_guests()
            await asyncio.to_thread(self._app.models.unload)
            return {self.status: gr.skip()}  # an empty answer would be an error to Gradio
        except Exception as error:
            return self._refused(error)

    def _how_far(self) -> Updates:
        """Return the parts that change while a model is loaded."""
        status = self._app.models.status
        return {
            self.status: html.model_status(status, self._tr, self._language),
            self._shared.pill: html.pill(status, self._tr),
            self._shared.seen: status.version,
        }

    def view(self) -> Updates:
        """The state of the model in use, as this page shows it."""
        label = self._tr("cancel_load" if self._app.models.status.state == "loading" else "unload")
        return {
            **self._how_far(),
            self.unload: gr.update(value=label),
            self._shared.bot: gr.update(placeholder=self._tr(greeting(self._app))),
            self._shared.truncation: gr.skip(),
            **self.code.ask(None),
            **self.loras.view(),
        }

    def _followed(self) -> Updates:
        """What of the page follows a model that has just become ready."""
        status = self._app.models.status
        context = status.context_length if status.state == "ready" else gr.skip()
        return {self._shared.truncation: context, **self.loras.follow()}

    def look(self, seen: int) -> Updates:
        """What has changed since this page last looked: another tab, the API or a crash may have changed it."""
        changed = seen != self._app.models.status.version
        return self.view() | self._followed() if changed else {component: gr.skip() for component in self.live}
