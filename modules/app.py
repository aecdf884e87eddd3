"""What the faces share: the owners of all state, and the one way from a wish ("this model, so") to a load."""

from __future__ import annotations

import dataclasses
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from modules.catalog.catalog import Catalog, ModelRecord
from modules.config import settings
from modules.config.flags import Flags
from modules.config.model_settings import LOADER, LORAS, ModelSettings
from modules.config.presets import Presets
from modules.config.trusted_code import TrustedCode, compare
from modules.core.errors import (
    CommandLineError,
    LoaderUnavailable,
    OwnerOnly,
    UnknownLoader,
    Unsupported,
    WebUIError,
    Words,
)
from modules.core.events import Json
from modules.core.paths import ROOT
from modules.downloads.manager import Downloads
from modules.downloads.retry import Pace
from modules.engines.hf.memory_prequantized import Quantised
from modules.formats.gguf_header import GgufHeader
from modules.formats.remote_code import code_of
from modules.hub.endpoints import Token
from modules.hub.errors import BadToken
from modules.hub.mirrors import Hubs, token_from
from modules.llamacpp_hf_creator import Creator
from modules.loaders.registry import (
    LOADERS,
    Loader,
    Setting,
    find_loader,
    llamacpp_gpus,
    settle,
    unavailable,
    usable,
    values,
)
from modules.lora import manager
from modules.lora.catalog import Loras
from modules.lora.manager import LoraControl
from modules.options.option import Value
from modules.planning.fit import Device, Facts, Fit, fit, fitting_context, given_back
from modules.planning.recommendation import refusal, takers
from modules.runtime.core_binding import CoreBinding
from modules.runtime.model_manager import LoadedModel, Models
from modules.setup.install import being_installed
from modules.setup.overlay_installer import Overlays
from modules.setup.preparation import Preparation
from modules.system import cpu_memory, gpus
from modules.system.gpus import Gpu

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A load, decided: every option has its value and its source."""

    record: ModelRecord
    loader: Loader
    settings: Mapping[str, Setting]
    loras: Mapping[str, object] = field(default_factory=dict)  # their weights, by name


class App:
    """Made once in `server.py` and handed down. `cache` is the file where the catalogue keeps what it has read."""

    def __init__(self, flags: Flags, cache: Path | None = None) -> None:
        self.flags = flags
        self.cache = cache
        named = flags.text("settings")
        self.settings_path = Path(named or ROOT / "settings.yaml")
        self.settings = settings.read(self.settings_path, required=bool(named))
        self.catalog = Catalog(Path(flags.text("model_dir") or ROOT / "models"), cache)
        self.remembered = ModelSettings(self.catalog.folder, self._is_model)
        self.trusted_code = TrustedCode(self.catalog.folder)
        self.presets = Presets(ROOT / "presets")
        self.models = Models(CoreBinding())
        self.overlays = Overlays()
        self.available_memory: Callable[[], int] = cpu_memory.available_memory
        self.gpus: Callable[[], Sequence[Gpu]] = partial(llamacpp_gpus, gpus.Gpus())
        self.torch_gpus: Callable[[], Sequence[Gpu]] = gpus.Gpus(gpus.of_torch).now
        self.hubs = Hubs(flags.text("hf_endpoint"), lambda: self.settings.hf_endpoint, _token())
        self.loras = LoraControl(Loras(Path(flags.text("lora_dir") or ROOT / "loras")), self.models)
        self.downloads = Downloads(
            {"model": self.catalog.folder, "lora": self.loras.list.folder},
            self.hubs.open,
            Pace(connections=self.settings.download_connections),
            self.settings.downloads_at_once,
        )
        self.preparation = Preparation(self.overlays, self.models, self.catalog.folder)
        self.creator = Creator(self.catalog, self.remembered, self.models, self.downloads, self.hubs)
        self.named = self._find_named(flags.text("model"))
        if flags.on("trust_changed_code") and self.named is None:
            raise CommandLineError(_WHOSE_CODE)
        self._typed_loras = self.loras.flagged(flags.text("lora"))  # a misspelt name is told at once
        if flags.text("loader"):
            find_loader(flags.text("loader"))  # a misspelt name is told at once, not at the first load

    def _find_named(self, wish: str) -> ModelRecord | None:
        """The model of `--model`. One that lies outside the folder of models is called by its whole path."""
        if not wish:
            return None
        record = self.catalog.find(wish, paths=True)
        inside = record.path.is_relative_to(self.catalog.folder)
        return record if inside else dataclasses.replace(record, name=str(record.path))

    def listed(self) -> list[ModelRecord]:
        """All models to choose from, the one that `--model` brought from elsewhere first."""
        records = self.catalog.models()
        inside = self.named is None or any(record.name == self.named.name for record in records)
        return records if inside or self.named is None else [self.named, *records]

    def preferred(self, *names: object) -> str | None:
        """The model to show where none of `names` is any more: the one in use, or the one `--model` named, or the
        first whole one; None if there are no models."""
        listed = self.listed()
        whole = [record.name for record in listed if record.problem is None]
        known = [record.name for record in listed]
        wishes = [*names, self.models.status.name, self.named.name if self.named else "", *whole, *known]
        return next((str(each) for each in wishes if each in known), None)

    def record(self, name: str) -> ModelRecord:
        """The model of that name: one of the catalogue, or the one that `--model` brought from elsewhere."""
        return self.named if self.named is not None and self.named.name == name else self.catalog.find(name)

    def typed_for(self, record: ModelRecord) -> Mapping[str, Value]:
        """The load options of the command line that apply to `record`: to the model it named, or to all if to none."""
        return self.flags.load if self.named is None or self.named.name == record.name else {}

    def plan(
        self,
        record: ModelRecord,
        loader_name: str = "",
        form: Mapping[str, object] | None = None,
        saved: Mapping[str, object] | None = None,
        shown: int = 0,
    ) -> Plan:
        """How `record` will be loaded: by the loader named, or the best for it, with `form` above all other sources.

        `saved` stands in for what is remembered of the model, of which a fault is an error otherwise. `shown` is the
        context that the user sees, to which memory had it reduced; free memory has changed since.
        """
        if record.problem is not None:
            raise record.problem
        saved = self.saved_for(record) if saved is None else saved
        loader = find_loader(loader_name) if loader_name else self.best_loader(record, saved)
        if (refused := refusal(record, loader)) is not None:
            raise refused
        typed = self.typed_for(record)
        settled = settle(loader, model=record.defaults, saved=saved, flags=typed, form=form or {})
        if "trust_remote_code" in settled and settled["trust_remote_code"].value and not self.trusts:
            raise _untrusted()
        return Plan(record, loader, self._fitted(record, settled, shown), self._loras_for(record, saved))

    def _loras_for(self, record: ModelRecord, saved: Mapping[str, object]) -> Mapping[str, object]:
        """Those of the command line for the model that it named, or for all if it named none; else the saved ones."""
        typed = self._typed_loras if self.named is None or self.named.name == record.name else {}
        return typed or manager.wanted(saved.get(LORAS))

    def best_loader(self, record: ModelRecord, saved: Mapping[str, object]) -> Loader:
        """The flag's loader for the model it came with, else the saved one, the preferred one, the first that runs, or
        that would if something were installed.

        Its problem, of a model that none can load.
        """
        if record.problem is not None:
            raise record.problem
        if self.flags.text("loader") and (self.named is None or self.named.name == record.name):
            return find_loader(self.flags.text("loader"))
        able = takers(record)
        for wish in (saved.get(LOADER), self.settings.loaders.get(record.format)):
            loader = _known(wish)
            if loader is not None and loader in able:
                return loader
        wanting = {loader: unavailable(loader, record.format) for loader in able}
        running = [loader for loader, reason in wanting.items() if reason is None]
        installable = [loader for loader, reason in wanting.items() if reason is not None and reason.install]
        return [*running, *installable, *able][0]

    # -- what is remembered -------------------------------------------------------------------------------------------

    @property
    def trusts(self) -> bool:
        """Whether code that comes with a model may run: only the command line can say so."""
        return bool(self.flags.load.get("trust_remote_code"))

    def saved_for(self, record: ModelRecord) -> Mapping[str, object]:
        """What was saved for the model, raw. SettingsError if the file is damaged."""
        saved = self.remembered.of(record.name)
        return saved if self.trusts else {key: raw for key, raw in saved.items() if key != "trust_remote_code"}

    def usable_for(self, record: ModelRecord) -> tuple[Mapping[str, object], list[WebUIError]]:
        """What can be used of it, and what is wrong with the rest."""
        try:
            return usable(self.saved_for(record))
        except WebUIError as error:
            return {}, [error]

    def form_for(self, record: ModelRecord, saved: Mapping[str, object]) -> dict[str, Setting]:
        """What the form shows of a model: every option of every loader. Memory decides for its own loader."""
        sources = {"model": record.defaults, "saved": saved, "flags": self.typed_for(record)}
        settled = {key: each for one in LOADERS.values() for key, each in settle(one, **sources, form={}).items()}
        if record.problem is not None:
            return settled
        own = self.best_loader(record, saved).options
        return settled | self._fitted(record, {key: each for key, each in settled.items() if key in own})

    def save(
        self,
        record: ModelRecord,
        loader_name: str,
        form: Mapping[str, object],
        saved: Mapping[str, object] | None = None,
        shown: int = 0,
    ) -> Path | None:
        """Remember the loader and the options that differ from what the model would get anyway; not typed flags.

        `saved` and `shown` are as for `plan`. Returned is where a file of settings that could not be read was kept.
        """
        saved = self.usable_for(record)[0] if saved is None else saved
        loader = self.plan(record, loader_name, form, saved, shown).loader
        said = {"model": record.defaults, "flags": {}}
        anyway = values(self._fitted(record, settle(loader, **said, saved={}, form={}), shown))
        wanted = self._fitted(record, settle(loader, **said, saved=saved, form=form), shown)
        chosen = {
            key: each.value for key, each in wanted.items() if each.value != anyway[key] and each.source != "memory"
        }
        loras = self._loras_chosen(record)
        known = loader.options if loras is None else (*loader.options, LORAS)
        return self.remembered.save(record.name, loader.name, chosen | ({LORAS: loras} if loras else {}), known)

    def _loras_chosen(self, record: ModelRecord) -> dict[str, float] | None:
        """Those in force, by choice of the user; None if nobody has said anything of the model's LoRAs."""
        status = self.models.status
        loras = {each.name: each.weight for each in status.loras}
        absent = status.state != "ready" or status.name != record.name or status.lora_problem is not None
        return None if absent or (loras and loras == self._typed_loras) else loras

    def set_autoload(self, wanted: bool) -> Path | None:
        """Returned is where a settings.yaml that could not be read was kept."""
        return self._set("autoload_model", wanted)

    def set_preset(self, name: str) -> Path | None:
        """What the page begins with from now on; "" for the table's own defaults. Returned is as for `set_autoload`."""
        return self._set("preset", name)

    def set_endpoint(self, text: str) -> Path | None:
        """Where downloads come from, now and from now on. BadEndpoint. Returned is as for `set_autoload`."""
        self.hubs.choose(text)
        return self._set("hf_endpoint", text)

    def _set(self, key: str, value: bool | str) -> Path | None:
        aside = settings.remember(self.settings_path, key, value)
        self.settings = dataclasses.replace(self.settings, **{key: value})  # type: ignore[arg-type]
        return aside

    def generation_defaults(self) -> dict[str, Value]:
        """The parameters that the page begins with where they are not the table's: settings.yaml's above a preset's."""
        try:
            preset = self.presets.read(self.settings.preset).values if self.settings.preset else {}
        except WebUIError as error:  # it has been deleted, or damaged: told in the log, and no reason not to start
            log.warning("%s", error)
            preset = {}
        return {**preset, **self.settings.generation}

    def refuse_guests(self) -> None:
        """With --multi-user, whoever uses the page is a guest: the model, and what is remembered, are the owner's."""
        if self.flags.on("multi_user"):
            raise OwnerOnly()

    def _is_model(self, name: str) -> bool:
        return self.catalog.called(name) is not None

    # -- memory -------------------------------------------------------------------------------------------------------

    def free_memory(self, facts: Facts) -> tuple[Device, ...]:
        """Main memory, then each GPU that the loader can use: what a load may take of it, which is what is available
        and what the model in use gives back."""
        available, cards = self.available_memory(), self._cards(facts)
        main, *others = (*self._given_back(), *(0 for _ in cards))  # a loader that uses any sees the same as another
        freed = zip(cards, others, strict=False)
        return (
            Device("", available + main if available else 0),
            *(Device(card.name, max(card.free + more, 1)) for card, more in freed),
        )

    def _cards(self, facts: Facts) -> Sequence[Gpu]:
        return self.gpus() if isinstance(facts, GgufHeader) else self.torch_gpus()

    def _given_back(self) -> list[int]:
        """Bytes, of main memory and each GPU that the model in use can be on."""
        try:
            model = self.models.current
        except WebUIError:
            return [0]
        facts = _estimable(model.record, model.loader.name)
        if facts is None:
            return [0]
        return given_back(facts, values(model.settings), [card.free for card in self._cards(facts)])

    def fit(self, plan: Plan) -> Fit | None:
        """Whether what `plan` loads fits into memory; None where that cannot be told."""
        facts = _estimable(plan.record, plan.loader.name)
        return None if facts is None else fit(facts, values(plan.settings), self.free_memory(facts))

    def room_for_weights(self) -> int:
        """Bytes of all the memory that plain weights can go to; 0 if unknown."""
        available = self.available_memory()
        return available + sum(card.free for card in self.torch_gpus()) + sum(self._given_back()) if available else 0

    def _fitted(self, record: ModelRecord, settled: dict[str, Setting], shown: int = 0) -> dict[str, Setting]:
        """With the context that nobody asked for reduced to what fits."""
        header = record.header
        if header is None or "n_ctx" not in settled or settled["n_ctx"].source not in ("default", "model"):
            return settled
        wish = int(settled["n_ctx"].value) or header.context_length
        fits = shown or fitting_context(header, values(settled), self.free_memory(header))
        return settled if fits >= wish else settled | {"n_ctx": Setting(fits, "memory")}

    # -- loading ------------------------------------------------------------------------------------------------------

    def load(self, plan: Plan) -> LoadedModel:
        return self.begin(plan).result()

    def begin(self, plan: Plan, number: int | None = None) -> Future[LoadedModel]:
        """As `Models.begin`. CodeChanged if code would run that nobody has agreed to."""
        if self._runs_code(plan):
            self.trusted_code.check(plan.record.name, code_of(plan.record.path))
        try:
            return self.models.begin(plan.record, plan.loader, plan.settings, number, plan.loras)
        except LoaderUnavailable as error:
            raise being_installed(plan.loader, plan.record.format, self.overlays) or error from None

    def _runs_code(self, plan: Plan) -> bool:
        return "trust_remote_code" in plan.settings and bool(plan.settings["trust_remote_code"].value)

    def trust_code(self, name: str, seen: object = None) -> None:
        """Agree to the code of the model of that name as it is now. CodeChanged if there is more than was `seen`."""
        if not self.trusts:
            raise _untrusted()
        record = self.record(name)
        code = code_of(record.path)
        if seen is not None:
            compare(record.name, seen, code)
        self.trusted_code.agree(record.name, code)

    def explain(self, plan: Plan) -> Json:
        """The plan and the backend's exact calls, as JSON; "unavailable" says why there are none."""
        try:
            told = self.models.explain(plan.record, plan.loader, plan.settings)
        except LoaderUnavailable as reason:
            told = {"unavailable": _said(reason)}
        options = {key: {"value": each.value, "source": each.source} for key, each in plan.settings.items()}
        return {"model": plan.record.name, "loader": plan.loader.name, "options": options, **told}


def _estimable(record: ModelRecord, loader: str) -> Facts | None:
    """What tells its memory with that loader; None where its files do not tell enough."""
    if record.shape is not None and record.shape.method:
        return Quantised(record.shape, loader)
    return record.header or record.shape


def _token() -> Token | None:
    try:
        return token_from(os.environ)
    except BadToken as error:  # no reason not to start
        log.warning("HF_TOKEN: %s", error)
        return None


def _known(name: object) -> Loader | None:
    """The loader of that name; None for what is no loader's: the file may come from another program."""
    try:
        return find_loader(name) if isinstance(name, str) and name else None
    except UnknownLoader:
        return None


_WHOSE_CODE: Words = {
    "en": "--trust-changed-code needs --model, which says whose code is meant.",
    "zh": "--trust-changed-code 需要与 --model 一起使用，以指明是哪个模型的代码。",
}


def _untrusted() -> Unsupported:
    return Unsupported(
        {
            "en": "trust_remote_code runs code that comes with the model; it has to be allowed at start, "
            "by the flag --trust-remote-code.",
            "zh": "trust_remote_code 会运行模型自带的代码，只能在启动时用参数 --trust-remote-code 允许。",
        }
    )


def _said(error: WebUIError) -> dict[str, str]:
    return {language: error.say(language) for language in ("zh", "en")}
