"""Delete a model with its saved settings, unless it is in use, and restore both."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from modules.catalog.catalog import Catalog
from modules.catalog.deletion import KEEP_SECONDS, BinEntry, Deletion, ModelBin, plan_deletion
from modules.catalog.errors import NotDeletable
from modules.catalog.record import ModelRecord
from modules.config.model_settings import ModelSettings
from modules.core.errors import BinNotEmptied, SettingsError, Words
from modules.downloads.manager import DownloadManager
from modules.downloads.record import ACTIVE_STATES
from modules.downloads.view import JobView
from modules.engines.prompt_cache.folder import PromptFolder
from modules.runtime.model_manager import ModelManager

log = logging.getLogger(__name__)

_LOADED: Words = {"en": "It is loaded. Unload it first.", "zh": "它正在使用中，请先卸载。"}
_DOWNLOADING: Words = {
    "en": "A download is writing to its files. Wait until it is finished, or cancel it first.",
    "zh": "有下载任务正在写入其文件。请等待下载完成，或先取消下载。",
}


class ModelDeletion:
    """Moves models and their settings to the bin in the folder of models, and back.

    `find` returns the model of a name, as `App.record` does. Its saved `prompts` are deleted for good.
    """

    def __init__(
        self,
        catalog: Catalog,
        settings: ModelSettings,
        models: ModelManager,
        downloads: DownloadManager,
        find: Callable[[str], ModelRecord],
        prompts: PromptFolder | None = None,
    ) -> None:
        self._catalog, self._settings, self._models, self._downloads = catalog, settings, models, downloads
        self._find, self._prompts = find, prompts
        self._bin = ModelBin(catalog.folder)

    def delete(self, name: str) -> BinEntry:
        """Move a model to the bin. Raises ModelNotFound, NotDeletable or SettingsError."""
        record = self._find(name)
        records = self._catalog.models()
        deletion = plan_deletion(self._catalog.folder, record, records, self._chosen_projectors(record, records))
        self._refuse_loaded(deletion)
        self._refuse_downloading(deletion)
        settings: dict[str, Mapping[str, Any]] = {}
        try:
            for model in deletion.models:
                settings[model.name] = dict(self._settings.remove(model.name))
            entry = self._bin.delete(deletion, {model: saved for model, saved in settings.items() if saved})
        except (NotDeletable, SettingsError):
            self._put_back(settings)
            raise
        if self._prompts is not None:
            for model in deletion.models:
                self._prompts.delete_model(model.path)
        self._forget_failures({model.name for model in deletion.models})
        return entry

    def restore(self, entry_id: str) -> BinEntry:
        """Move an entry of the bin back. Settings saved since then are kept. Raises NotInBin or NotRestorable."""
        entry = self._bin.restore(entry_id)
        self._put_back(entry.settings)
        return entry

    def entries(self) -> list[BinEntry]:
        """Return what is in the bin, the latest deletion first."""
        return self._bin.entries()

    def empty(self) -> int:
        """Delete everything in the bin for good, and return how many bytes that was. Raises BinNotEmptied."""
        return self._bin.empty()

    def sweep(self) -> None:
        """Delete for good what has been in the bin for 30 days."""
        try:
            self._bin.empty(older_than=KEEP_SECONDS)
        except BinNotEmptied as error:  # no reason not to start
            log.warning("%s", error)

    def _chosen_projectors(self, record: ModelRecord, records: Sequence[ModelRecord]) -> list[Path]:
        """Return the vision parts in the folder of a model that the saved settings of others name."""
        folder = record.path.parent
        others = [other.name for other in records if other.path.parent == folder and other.name != record.name]
        names = [self._settings.get(other).get("mmproj") for other in others]
        return [folder / name for name in names if isinstance(name, str)]

    def _put_back(self, settings: Mapping[str, Mapping[str, Any]]) -> None:
        for model, entry in settings.items():
            with contextlib.suppress(SettingsError):  # the model matters more than its settings
                self._settings.put_back(model, entry)

    def _refuse_loaded(self, deletion: Deletion) -> None:
        used = {one.name for one in self._models.residents() if one.state != "failed"}
        if used.intersection(model.name for model in deletion.models):
            raise NotDeletable(deletion.models[0].name, _LOADED)

    def _forget_failures(self, names: Set[str]) -> None:
        """Show no longer that models could not be loaded which do not exist any more."""
        for resident in self._models.residents():
            if resident.name in names and resident.state == "failed":
                self._models.unload(resident.name)

    def _refuse_downloading(self, deletion: Deletion) -> None:
        for view in self._downloads.snapshot():
            active = view.elsewhere or view.state in ACTIVE_STATES
            if active and _overlaps(self._written(view), deletion.paths):
                raise NotDeletable(deletion.models[0].name, _DOWNLOADING)

    def _written(self, view: JobView) -> list[Path]:
        """Return what a download creates or replaces: its files or, if it has a folder of its own, that."""
        spec = view.spec
        if spec.target or spec.files is None:
            return [view.folder]
        target = self._downloads.install_target(spec)
        return [target.root / target.path_in_root(file) for file in spec.files]


def _overlaps(written: Sequence[Path], moved: Sequence[Path]) -> bool:
    return any(new.is_relative_to(old) or old.is_relative_to(new) for new in written for old in moved)
