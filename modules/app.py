"""What the faces share: the owners of all state, and the one way from a wish ("this model, so") to a load."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modules import models, settings
from modules.catalog import Catalog, ModelRecord
from modules.errors import LoaderUnavailable, Unsupported, WebUIError
from modules.events import Json
from modules.flags import Flags
from modules.loaders import Loader, Setting, candidates, find_loader, settle, unavailable
from modules.models import LoadedModel, Models
from modules.options import Value
from modules.process import ROOT


@dataclass(frozen=True)
class Plan:
    """A load, decided: every option has its value and its source."""

    record: ModelRecord
    loader: Loader
    settings: Mapping[str, Setting]


class App:
    """Made once in `server.py` and handed down."""

    def __init__(self, flags: Flags) -> None:
        self.flags = flags
        named = flags.text("settings")
        self.settings = settings.read(Path(named or ROOT / "settings.yaml"), required=bool(named))
        self.catalog = Catalog(Path(flags.text("model_dir") or ROOT / "models"))
        self.models = Models()
        self.named = self._find_named(flags.text("model"))
        if flags.text("loader"):
            find_loader(flags.text("loader"))  # a misspelt name is told at once, not at the first load

    def _find_named(self, wish: str) -> ModelRecord | None:
        """The model of `--model`. One that lies outside the folder of models is called by its whole path."""
        if not wish:
            return None
        record = self.catalog.find(wish, paths=True)
        inside = record.path.is_relative_to(self.catalog.folder)
        return record if inside else dataclasses.replace(record, name=str(record.path))

    def record(self, name: str) -> ModelRecord:
        """The model of that name: one of the catalogue, or the one that `--model` brought from elsewhere."""
        return self.named if self.named is not None and self.named.name == name else self.catalog.find(name)

    def typed_for(self, record: ModelRecord) -> Mapping[str, Value]:
        """The load options of the command line that apply to `record`: to the model it named, or to all if to none."""
        return self.flags.load if self.named is None or self.named.name == record.name else {}

    def plan(self, record: ModelRecord, loader_name: str = "", form: Mapping[str, object] | None = None) -> Plan:
        """How `record` will be loaded: by the loader named, or the best for it, with `form` above all other sources."""
        if record.problem is not None:
            raise record.problem
        loader = find_loader(loader_name) if loader_name else self.best_loader(record)
        if record.format not in loader.formats:
            raise _wrong_loader(record, loader)
        typed = self.typed_for(record)
        return Plan(record, loader, settle(loader, model=record.defaults, saved={}, flags=typed, form=form or {}))

    def best_loader(self, record: ModelRecord) -> Loader:
        """The flag's loader for the model it came with, else the first that takes this format and runs here."""
        if self.flags.text("loader") and (self.named is None or self.named.name == record.name):
            return find_loader(self.flags.text("loader"))
        able = candidates(record.format)
        return next((loader for loader in able if unavailable(loader) is None), able[0])

    def load(self, plan: Plan) -> LoadedModel:
        return self.models.load(plan.record, plan.loader, plan.settings)

    def explain(self, plan: Plan) -> Json:
        """The plan and the backend's exact calls, as JSON; "unavailable" says why there are none."""
        told: Json
        try:
            told = models.explain(plan.record, plan.loader, plan.settings)
        except LoaderUnavailable as reason:
            told = {"unavailable": _said(reason)}
        options = {key: {"value": each.value, "source": each.source} for key, each in plan.settings.items()}
        return {"model": plan.record.name, "loader": plan.loader.name, "options": options, **told}


def _said(error: WebUIError) -> dict[str, str]:
    return {language: error.say(language) for language in ("zh", "en")}


def _wrong_loader(record: ModelRecord, loader: Loader) -> Unsupported:
    takers = candidates(record.format)
    able = ", ".join(each.name for each in takers if unavailable(each) is None) or takers[0].name
    return Unsupported(
        {
            "en": f"{loader.name} cannot load {record.format} models; for {record.name} use {able}.",
            "zh": f"{loader.name} 无法加载 {record.format} 格式的模型；{record.name} 请使用 {able}。",
        }
    )
