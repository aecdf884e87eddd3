"""The Storage card: the size of the program's folders, measured in the background, and the bins."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path

from modules.app import App
from modules.core.errors import WebUIError
from modules.core.paths import ROOT
from modules.downloads.install_files import STAGING
from modules.system.bin_folder import BIN, empty_bin, names_in_bin
from modules.system.folder_size import FolderSize, measure
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates
from modules.ui.locales import Tr
from modules.ui.session.card import button, card, fold, heading, sent_text, tagged
from modules.ui.widgets.messages import alert, decimal_size, info
from modules.ui.widgets.option_form import Component

gr = gradio()

SECONDS = 5.0
"""For each folder; those that take longer are shown as "at least"."""
_SHOWN = 50


@dataclass(frozen=True)
class StoredFolder:
    """A folder of the program; `skip` are parts of it that are shown on their own. `key` is that of its name."""

    key: str
    folder: Path
    skip: Sequence[Path] = ()


@dataclass(frozen=True)
class Bin:
    """A bin: `entries` returns the names of what is in it, `empty` deletes that for good."""

    key: str
    entries: Callable[[], list[str]]
    empty: Callable[[], object]


def stored_folders(app: App) -> list[StoredFolder]:
    """Return all folders that the program fills."""
    models, loras, logs = app.catalog.folder, app.loras.catalog.folder, app.logs_folder
    bins = [folder / BIN for folder in (models, logs, logs / "notebook", *(folder for _, folder in _kept_by_name(app)))]
    parts = [models / STAGING, loras / STAGING, logs / "attachments", logs / "notebook", *bins]
    return [
        StoredFolder("ss_models", models, parts),
        StoredFolder("ss_loras", loras, parts),
        StoredFolder("ss_conversations", logs, parts),
        StoredFolder("ss_attachments", logs / "attachments"),
        StoredFolder("ss_notebook", logs / "notebook", parts),
        StoredFolder("ss_downloading", models / STAGING),
        StoredFolder("ss_downloading_loras", loras / STAGING),
        *(StoredFolder("ss_cache", folder) for folder in _subfolders(ROOT / "cache")),
        StoredFolder("ss_overlays", ROOT / "overlays"),
        *(StoredFolder("ss_bin_folder", folder) for folder in bins),
    ]


def _subfolders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def bins(app: App) -> list[Bin]:
    """Return all bins."""
    return [
        Bin(
            "ss_bin_conversations",
            lambda: [found.title or found.id for found in app.conversations.deleted()],
            lambda: app.conversations.empty_bin(0),
        ),
        Bin(
            "ss_bin_models",
            lambda: [f"{', '.join(entry.names)} ({decimal_size(entry.size)})" for entry in app.deletion.entries()],
            app.deletion.empty,
        ),
        Bin(
            "ss_bin_notebook",
            partial(names_in_bin, app.logs_folder / "notebook" / BIN),
            partial(app.notebooks.empty_bin, 0),
        ),
        *(
            Bin(key, partial(names_in_bin, folder / BIN), partial(empty_bin, folder / BIN))
            for key, folder in _kept_by_name(app)
        ),
    ]


def saved_prompts(app: App, tr: Tr) -> Bin:
    """Return the saved prompts of all models as a bin, which also empties the KV caches of idle models."""
    folder = app.prompt_files

    def entries() -> list[str]:
        return [
            tr("ss_prompt").format(model=header.model, tokens=f"{header.tokens:,}", size=decimal_size(file.size))
            for file, header in (folder.headers() if folder is not None else ())
        ]

    return Bin("ss_prompts", entries, app.forget_prompts)


def _kept_by_name(app: App) -> list[tuple[str, Path]]:
    """Return the folders whose bins contain files, or folders of them, as they were."""
    return [
        ("ss_bin_characters", app.characters.folder),
        ("ss_bin_personas", app.personas.folder),
        ("ss_bin_presets", app.presets.folder),
        ("ss_bin_grammars", app.grammars.folder),
        ("ss_bin_templates", app.instruction_templates.folder),
    ]


class StorageCard:
    def __init__(self, page: Page) -> None:
        self._page, self._app, self._tr = page, page.app, page.tr
        self.part: Component = card("storage", "measure", "empty")

    def listen(self) -> None:
        on, options = self._page.on, Options(owner_only=True, trigger_mode="always_last", concurrency_limit=2)
        on(self.part.measure, self.show, None, [self.part], **options)
        on(self.part.empty, self.empty, None, [self.part], **options)

    # -- handlers -------------------------------------------------------------------------------------------------

    async def show(self) -> AsyncIterator[Updates]:
        """Show the bins at once, and the size of each folder as soon as it is known."""
        async for updates in self._measured(""):
            yield updates

    async def empty(self, event: gr.EventData) -> AsyncIterator[Updates]:  # type: ignore[name-defined]
        """Delete for good what is in a bin."""
        name = sent_text(event, "bin")
        chosen = [one for one in [*bins(self._app), saved_prompts(self._app, self._tr)] if one.key == name]
        try:
            for one in chosen:
                await asyncio.to_thread(one.empty)
        except WebUIError as error:
            yield {self.part: self.render({}, alert(error, self._page.language, self._tr))}
            return
        async for updates in self._measured(info(self._tr("ss_bin_emptied")) if chosen else ""):
            yield updates

    async def _measured(self, note: str) -> AsyncIterator[Updates]:
        sizes: dict[Path, FolderSize] = {}
        yield {self.part: await asyncio.to_thread(self.render, sizes, note)}
        for stored in stored_folders(self._app):
            sizes[stored.folder] = await asyncio.to_thread(measure, stored.folder, SECONDS, stored.skip)
        yield {self.part: await asyncio.to_thread(self.render, sizes, note)}

    # -- HTML -----------------------------------------------------------------------------------------------------

    def render(self, sizes: dict[Path, FolderSize], note: str) -> str:
        """Render the folders with the `sizes` known so far, and the bins."""
        tr = self._tr
        shown = [stored for stored in stored_folders(self._app) if _shown(stored, sizes)]
        rows = "".join(self._row(number, stored, sizes.get(stored.folder)) for number, stored in enumerate(shown))
        found = "".join(map(self._bin, bins(self._app))) or tagged("p", tr("bin_empty"), "tx-s-quiet")
        prompts = self._bin(saved_prompts(self._app, tr))
        prompts = (
            prompts and f"<h3>{escape(tr('ss_saved'))}</h3>{tagged('p', tr('ss_saved_info'), 'tx-s-quiet')}{prompts}"
        )
        return (
            heading(tr("ss_storage"), self._disk())
            + f'<ul class="tx-s-places">{rows}</ul>'
            + f'<div class="tx-s-buttons">{button(tr("ss_measure"), "measure", id="tx-s-measure")}</div>'
            + f"<h3>{escape(tr('ss_bins'))}</h3><p class='tx-s-quiet'>{escape(tr('ss_bins_info'))}</p>{note}{found}"
            + prompts
        )

    def _disk(self) -> str:
        """Return a sentence about the free space of the disk with the models."""
        for folder in (self._app.catalog.folder, ROOT):
            try:
                usage = shutil.disk_usage(folder)
            except OSError:
                continue
            return self._tr("ss_disk").format(free=decimal_size(usage.free), total=decimal_size(usage.total))
        return ""

    def _row(self, number: int, stored: StoredFolder, size: FolderSize | None) -> str:
        tr = self._tr
        name = tr(stored.key).format(name=stored.folder.name)
        shown = tr("ss_measuring") if size is None else decimal_size(size.bytes)
        if size is not None and not size.complete:
            shown = tr("ss_at_least").format(size=shown)
        files = "" if size is None else tr("ss_files_one" if size.files == 1 else "ss_files").format(count=size.files)
        path, label = f"tx-s-path-{number}", tr("ss_copy_path")
        data = {"data_copy": path, "data_done": tr("ss_copied"), "aria_label": f"{label}: {name}"}
        return (
            f"<li>{tagged('span', name, 'tx-s-place')}{tagged('span', shown, 'tx-s-size')}"
            f"{tagged('span', files, 'tx-s-quiet tx-s-files')}"
            f'<code class="tx-s-path" id="{path}">{escape(str(stored.folder))}</code>{button(label, "", **data)}</li>'
        )

    def _bin(self, one: Bin) -> str:
        tr = self._tr
        try:
            names = one.entries()
        except WebUIError as error:
            return f"<p>{escape(error.say(self._page.language))}</p>"
        if not names:
            return ""
        title = tr(one.key).format(count=len(names))
        rest = [tr("ss_more").format(count=len(names) - _SHOWN)] if len(names) > _SHOWN else []
        listed = "".join(tagged("li", name) for name in [*names[:_SHOWN], *rest])
        sure = tr("ss_empty_sure").format(count=len(names))
        data = {"data_bin": one.key, "data_sure": sure, "id": f"tx-s-empty-{one.key}"}
        empty = button(tr("ss_empty"), "empty", style="danger", **data)
        return f'<div class="tx-s-bin">{fold(one.key, title, f"<ul>{listed}</ul>")}{empty}</div>'


def _shown(stored: StoredFolder, sizes: dict[Path, FolderSize]) -> bool:
    """Whether a folder is shown: not if nothing is in it, except for the first three, which users fill themselves."""
    size = sizes.get(stored.folder)
    always = stored.key in ("ss_models", "ss_loras", "ss_conversations")
    return always or (size is not None and size.files > 0)
