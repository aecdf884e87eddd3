"""Turn a request for a model into a plan: which loader, which value of each option, and where each value comes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from modules.catalog.record import ModelRecord
from modules.config.model_settings import LOADER, LORAS, ModelSettings
from modules.config.settings import SettingsStore
from modules.core.errors import UnknownLoader, WebUIError
from modules.loaders.availability import unavailable
from modules.loaders.load_settings import Setting, drop_invalid, option_values, resolve
from modules.loaders.registry import LOADERS, Loader, find_loader
from modules.lora.manager import LoraManager, parse_saved
from modules.options.load import OPTIONS
from modules.planning.code_consent import CodeConsent
from modules.planning.command_line import CommandLine
from modules.planning.draft_header import with_draft_header
from modules.planning.errors import SetByFilesOnly
from modules.planning.load_request import LoadRequest
from modules.planning.memory_budget import MemoryBudget
from modules.planning.recommendation import compatible_loaders, incompatibility
from modules.runtime.load_plan import LoadPlan


class Planner:
    """Decides loads, and reads and writes the settings saved for each model.

    `refuse_strangers` raises where not everybody who can send a form may name other machines.
    """

    def __init__(
        self,
        command_line: CommandLine,
        settings: SettingsStore,
        model_settings: ModelSettings,
        consent: CodeConsent,
        memory: MemoryBudget,
        loras: LoraManager,
        refuse_strangers: Callable[[], None],
    ) -> None:
        self._command_line, self._settings, self._model_settings = command_line, settings, model_settings
        self._consent, self._memory, self._loras = consent, memory, loras
        self._refuse_strangers = refuse_strangers

    def plan(self, request: LoadRequest) -> LoadPlan:
        """Decide how the model is loaded.

        Raises the model's own problem, UnknownLoader, Unsupported, SettingsError, UnknownOption or OptionError; for
        options of the form that not everybody may set, SetByFilesOnly, OwnerOnly or OpenToNetwork.
        """
        record = request.record
        self._check_form(request.form)
        if record.problem is not None:
            raise record.problem
        saved = self.saved_settings(record) if request.saved is None else request.saved
        loader = find_loader(request.loader) if request.loader else self.best_loader(record, saved)
        if (refusal := incompatibility(record, loader)) is not None:
            raise refusal
        flags = self._command_line.options_for(record)
        settings = resolve(loader, model=record.defaults, saved=saved, flags=flags, form=request.form)
        record = with_draft_header(record, option_values(settings))
        settings = self._memory.shrink_context(record, loader, settings, request.shown_context)
        settings = self._memory.choose_streams(record, loader, settings)
        plan = LoadPlan(record, loader, settings, self._loras_for(record, saved))
        if plan.runs_remote_code:
            self._consent.require_allowed()
        return plan

    def _check_form(self, form: Mapping[str, object]) -> None:
        """Refuse options of a form that not everybody may set."""
        for option in (OPTIONS[key] for key in form if key in OPTIONS):
            if option.set_by == "files":
                raise SetByFilesOnly(option.key, option.flag)
            if option.set_by == "owner":
                self._refuse_strangers()

    def best_loader(self, record: ModelRecord, saved: Mapping[str, object]) -> Loader:
        """Choose the loader for a model if the request names none.

        In this order: the one of the command line, the saved one, the one that settings.yaml prefers for the format,
        the first that runs, the first that could be installed. Raises the problem of a model that no loader can load.
        """
        if record.problem is not None:
            raise record.problem
        if prescribed := self._command_line.loader_for(record):
            return find_loader(prescribed)
        compatible = compatible_loaders(record)
        for name in (saved.get(LOADER), self._settings.current.loaders.get(record.format)):
            loader = _find_or_none(name)
            if loader is not None and loader in compatible:
                return loader
        reasons = {loader: unavailable(loader, record.format) for loader in compatible}
        running = [loader for loader, reason in reasons.items() if reason is None]
        installable = [loader for loader, reason in reasons.items() if reason is not None and reason.install]
        return [*running, *installable, *compatible][0]

    def _loras_for(self, record: ModelRecord, saved: Mapping[str, object]) -> Mapping[str, object]:
        """Return the weights of the command line's LoRAs if there are any, else of the saved ones, by name."""
        return self._command_line.loras_for(record) or parse_saved(saved.get(LORAS))

    # -- saved settings -----------------------------------------------------------------------------------------------

    def saved_settings(self, record: ModelRecord) -> Mapping[str, object]:
        """Return the settings saved for the model, raw. Raises SettingsError if the file is damaged."""
        saved = self._model_settings.get(record.name)
        # A file must not allow what only the command line may.
        return saved if self._consent.allowed else {key: raw for key, raw in saved.items() if key != _TRUST}

    def validated_settings(self, record: ModelRecord) -> tuple[Mapping[str, object], list[WebUIError]]:
        """Return the saved settings that are valid, and what is wrong with the others."""
        try:
            return drop_invalid(self.saved_settings(record))
        except WebUIError as error:
            return {}, [error]

    def form_settings(self, record: ModelRecord, saved: Mapping[str, object]) -> dict[str, Setting]:
        """Return what the form shows for a model: every option of every loader.

        Only options of the model's own loader are reduced to what fits in memory.
        """
        settings = self.unreduced_settings(record, saved)
        if record.problem is not None:
            return settings
        loader = self.best_loader(record, saved)
        return settings | self._memory.shrink_context(record, loader, {key: settings[key] for key in loader.options})

    def unreduced_settings(self, record: ModelRecord, saved: Mapping[str, object]) -> dict[str, Setting]:
        """Return every option of every loader for a model, whatever memory is free."""
        flags = self._command_line.options_for(record)
        settings: dict[str, Setting] = {}
        for loader in LOADERS.values():
            settings |= resolve(loader, model=record.defaults, saved=saved, flags=flags, form={})
        return settings

    def save(self, request: LoadRequest) -> Path | None:
        """Save the loader and the options that differ from what the model would get without saved settings.

        Options typed at start are not saved. Returns the backup path if the old file was invalid, else None.
        """
        record, shown_context = request.record, request.shown_context
        saved = self.validated_settings(record)[0] if request.saved is None else request.saved
        loader = self.plan(LoadRequest(record, request.loader, request.form, saved, shown_context)).loader
        unsaved = resolve(loader, model=record.defaults, saved={}, flags={}, form={})
        chosen = resolve(loader, model=record.defaults, saved=saved, flags={}, form=request.form)
        defaults = option_values(self._memory.shrink_context(record, loader, unsaved, shown_context))
        changed = {
            key: setting.value
            for key, setting in self._memory.shrink_context(record, loader, chosen, shown_context).items()
            if setting.value != defaults[key] and setting.source != "memory"
        }
        loras = self._loras_to_save(record)
        keys = loader.options if loras is None else (*loader.options, LORAS)
        return self._model_settings.save(record.name, loader.name, changed | ({LORAS: loras} if loras else {}), keys)

    def _loras_to_save(self, record: ModelRecord) -> dict[str, float] | None:
        """Return the weights of the LoRAs that the user applied to the model; None to keep what is saved of them."""
        applied = self._loras.applied_to(record)
        by_command_line = bool(applied) and applied == self._command_line.loras
        return None if by_command_line else applied


_TRUST = "trust_remote_code"


def _find_or_none(name: object) -> Loader | None:
    """Return the loader of that name; None for anything else, for the file may come from another program."""
    try:
        return find_loader(name) if isinstance(name, str) and name else None
    except UnknownLoader:
        return None
