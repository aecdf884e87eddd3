"""Explain what a load with the chosen options would do: its notes and calls, its memory, and the values' sources."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modules.core.errors import ModelProblem, NothingPicked, OptionError, WebUIError
from modules.planning.fit import Fit
from modules.planning.recommendation import compatible_loaders, explain_choice, reason
from modules.runtime.load_plan import LoadPlan
from modules.ui.gradio_import import gradio
from modules.ui.handlers import STALE_MENU, Page, Updates, Values
from modules.ui.model import model_html
from modules.ui.model.load_form import LoadForm
from modules.ui.model.model_card import ModelCard
from modules.ui.model.options_card import OptionsCard

gr = gradio()


class Explanation:
    """The notes below the loader menu, the memory bars and the marks at the options, for the form as it is now."""

    def __init__(self, page: Page, card: ModelCard, options: OptionsCard, form: LoadForm) -> None:
        self._page, self._app = page, page.app
        self._memory, self._options, self._form = card.memory, options, form
        self.writes = [options.notes, options.marks, card.memory, *options.install.parts]

    def after(self, *events: Any) -> None:
        """Explain the form again after each of these Gradio events."""
        for event in events:
            self._page.on(
                event,
                self.explain,
                self._form.components,
                self.writes,
                failed=self.failed,
                trigger_mode="always_last",
                concurrency_id="explain",  # one at a time, or the answer to an earlier form could arrive last
                concurrency_limit=1,
                **STALE_MENU,  # a text box that is filled in reports it, maybe before the menu of loaders has changed
            )

    async def explain(self, values: Values) -> Updates:
        """Ask the engine, in another process, what the options come to. Invalid values are marked at their fields."""
        options, page = self._options, self._page
        try:
            plan = await asyncio.to_thread(self._form.plan, values)
            explained = await asyncio.to_thread(self._app.loading.explain, plan)
        except (NothingPicked, ModelProblem):  # the problem of a model is shown with its facts
            return {options.notes: "", self._memory: "", options.marks: gr.skip()} | options.install.offer(None)
        except OptionError as error:
            marked = options.mark_error(error, self._trained_context(values))
            return {options.notes: "", self._memory: gr.skip()} | marked | options.install.offer(None)
        wanted = (plan.loader, plan.record.format)
        if not page.owner:
            explained.pop("calls", None)  # they name folders and other machines
        notes = model_html.reasons(*self._reasons(plan), page.tr)
        notes += options.install.notes(*wanted, model_html.explanation(explained, page.language, page.tr))
        fit = await asyncio.to_thread(self._app.memory.fit, plan)
        shown_fit = fit if page.owner or fit is None else _without_addresses(fit, plan.nodes)
        memory = model_html.memory(shown_fit, page.tr, page.language)
        shown = {options.notes: notes, self._memory: memory}
        return shown | options.mark_sources(plan) | options.install.offer(*wanted)

    def _trained_context(self, values: Values) -> int:
        """Return the context length that the form's model was trained with; 0 if unknown."""
        with contextlib.suppress(WebUIError):
            return self._form.request(values).record.context_length
        return 0

    def failed(self, error: WebUIError) -> Updates:
        """Show an error in place of the notes."""
        shown = {self._options.notes: self._page.alert(error), self._memory: "", self._options.marks: gr.skip()}
        return shown | self._options.install.offer(None)

    def _reasons(self, plan: LoadPlan) -> tuple[str, dict[str, str]]:
        """Return why the loader suits the model, and the reasons for the other compatible loaders by name."""
        language = self._page.language
        others = [loader for loader in compatible_loaders(plan.record) if loader is not plan.loader]
        reasons = {loader.name: reason(plan.record, loader) for loader in others}
        chosen = explain_choice(plan.record, plan.loader, self._page.owner)
        return chosen[language] if chosen else "", {name: text[language] for name, text in reasons.items() if text}


def _without_addresses(fit: Fit, nodes: Sequence[str]) -> Fit:
    """Return `fit` with numbers in the names of RPC nodes, whose addresses guests do not get."""
    names = {node: f"RPC {number}" for number, node in enumerate(nodes, 1)}
    parts = []
    for part in fit.parts:
        first, space, rest = part.device.name.partition(" ")
        parts.append(replace(part, device=replace(part.device, name=names.get(first, first) + space + rest)))
    return replace(fit, parts=tuple(parts))
