"""Carry out a plan, or explain it without loading anything."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future

from modules.chat.templates import ChatTemplates
from modules.core.errors import LoaderUnavailable
from modules.core.events import Json, Note
from modules.loaders.availability import rpc_unavailable
from modules.loaders.registry import RPC
from modules.lora.manager import LoraManager
from modules.planning.code_consent import CodeConsent
from modules.planning.context_note import context_note
from modules.planning.task_note import task_note
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from modules.setup.install import describe_progress, installation_in_progress
from modules.setup.overlay_installer import OverlayInstaller


class LoadService:
    """Hands plans to the model manager, with LoRAs resolved, once the user has agreed to the code that would run."""

    def __init__(
        self,
        models: ModelManager,
        loras: LoraManager,
        consent: CodeConsent,
        overlays: OverlayInstaller,
        templates: ChatTemplates,
    ) -> None:
        self._models, self._loras, self._consent, self._overlays = models, loras, consent, overlays
        self._templates = templates

    def load(self, plan: LoadPlan) -> LoadedModel:
        """Load and wait. Raises what `begin` raises, and why the load failed."""
        return self.begin(plan).result()

    def begin(self, plan: LoadPlan, number: int | None = None) -> Future[LoadedModel]:
        """Start a load in a thread of its own; `number` is its rank among all requests (`ModelManager.next_number`).

        Raises CodeChanged if code would run that the user has not agreed to, LoaderUnavailable, and the problem of a
        model that cannot be loaded.
        """
        try:
            return self._models.begin(self.prepare(plan), number)
        except LoaderUnavailable as error:
            raise installation_in_progress(plan.loader, plan.record.format, self._overlays) or error from None

    def prepare(self, plan: LoadPlan) -> LoadPlan:
        """Return the plan with its LoRAs resolved. Raises CodeChanged if code would run that was not agreed to.

        Raises LoaderUnavailable while what other machines need is being compiled, and has that begin.
        """
        if plan.runs_remote_code:
            self._consent.check(plan.record)
        if plan.nodes and rpc_unavailable(plan.loader):
            failure = self._overlays.status(RPC).error  # of an earlier attempt
            self._overlays.start(RPC)
            raise failure or describe_progress(plan.loader, RPC, self._overlays)
        return self._loras.resolve(plan)

    def notes(self, model: LoadedModel) -> tuple[Note, ...]:
        """Return the notes on the load of `model`: the engine's, then those on its chat template or its task."""
        if (note := task_note(model.record)) is not None:
            return (*model.info.notes, note)
        return (*model.info.notes, *self._templates.notes(self._templates.of(model.record, model.info)))

    def explain(self, plan: LoadPlan) -> Json:
        """Return the plan and the backend's exact calls, as JSON; "unavailable" says why there are no calls."""
        try:
            explanation = self._models.explain(plan)
        except LoaderUnavailable as reason:
            explanation = {"unavailable": {language: reason.say(language) for language in ("zh", "en")}}
        else:
            note = task_note(plan.record)
            # Nobody has asked the server yet what its template is.
            template_notes = () if plan.record.server else self._templates.notes(self._templates.of(plan.record))
            notes = [*((note,) if note else template_notes), *filter(None, (context_note(plan),))]
            explanation["notes"] = [*explanation["notes"], *map(dataclasses.asdict, notes)]
        options = {key: {"value": setting.value, "source": setting.source} for key, setting in plan.settings.items()}
        return {"model": plan.record.name, "loader": plan.loader.name, "options": options, **explanation}
