"""Choose files of a repository on a hub, see whether they fit, and start to download them."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

from modules.core.errors import WebUIError
from modules.downloads import request
from modules.downloads.disk import free_space
from modules.downloads.errors import DiskFull
from modules.downloads.request import FileCriteria, Selection
from modules.hub import file_choices
from modules.hub.endpoint_url import host_of
from modules.hub.errors import NothingToDownload
from modules.hub.repo_id import RepoAddress
from modules.hub.repository import Kind, RemoteFile, Repository
from modules.ui.downloads import file_table
from modules.ui.downloads.hub_search import HubSearch
from modules.ui.downloads.job_cards import settings_link
from modules.ui.downloads.job_list import JobList
from modules.ui.downloads.settings import OPEN_SETTINGS
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates
from modules.ui.widgets.messages import decimal_size
from modules.ui.widgets.option_form import Component

gr = gradio()

_READ_CHECKBOXES = """(listed, ...others) => {
  const table = document.querySelector("#tx-dl-files .tx-dl-table");
  const drawn = table && table.dataset.commit === listed?.commit;
  const boxes = drawn ? [...table.querySelectorAll("input:checked")] : [];
  return [drawn ? { ...listed, selected: boxes.map((box) => box.value) } : listed, ...others];
}"""
"""Send the checkboxes as they are at the event: what the server received before may be older."""

_AT_ONCE: Options = {"owner_only": True, "queue": False}
_ANNOUNCE_CELLS = """watch("value", () => document.dispatchEvent(new Event("tx-dl-cells")))"""
_SCRIPT = (Path(__file__).parent / "downloads.js").read_text(encoding="utf-8")


class FileChooser:
    """The address of a repository and the table of its files, created inside the current Gradio container.

    `listed` holds which repository the table shows: the address as typed, its commit, and, on the way from the
    browser, the names of the selected choices.
    """

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app
        self._build_fields()
        self.files: Component = gr.HTML("", elem_id="tx-dl-files", js_on_load=_SCRIPT)
        self.fits: Component = gr.HTML("", elem_id="tx-dl-fits", js_on_load=_ANNOUNCE_CELLS)
        self.downloaded: Component = gr.HTML("", elem_id="tx-dl-downloaded", js_on_load=_ANNOUNCE_CELLS)
        self.status: Component = gr.HTML("", elem_id="tx-dl-status", js_on_load=OPEN_SETTINGS)
        with gr.Row(elem_classes="tx-buttons tx-dl-buttons"):
            tr, owner = page.tr, page.owner
            self.download: Component = gr.Button(
                tr("dl_download"), interactive=owner, variant="primary", elem_id="tx-dl-download", scale=2
            )
            self.list_button: Component = gr.Button(tr("dl_list"), interactive=owner, elem_id="tx-dl-list", scale=1)
        self.listed: Component = gr.JSON({}, visible=False)

    def _build_fields(self) -> None:
        tr, owner = self._page.tr, self._page.owner
        with gr.Row(elem_classes="tx-row tx-dl-fields"):
            self.address: Component = gr.Textbox(
                interactive=owner,
                label=tr("dl_title"),
                info=tr("dl_info"),
                placeholder=tr("dl_example"),
                max_lines=1,
                scale=3,
                min_width=240,
                elem_id="tx-dl-address",
            )
            self.file: Component = gr.Textbox(
                interactive=owner,
                label=tr("dl_file"),
                info=tr("dl_file_info"),
                max_lines=1,
                scale=2,
                min_width=200,
                elem_id="tx-dl-file",
            )

    def listen(self, jobs: JobList, sha256: Component, search: HubSearch) -> None:
        """Attach the handlers. `sha256` is the field with the checksum that the user expects."""
        self._jobs, self._sha256, on = jobs, sha256, self._page.on
        reads = [self.listed, self.address, self.file]
        table = [self.files, self.downloaded, self.listed, self.file, self.status, self.download]
        chosen = on(search.results.choose, self.choose, None, [self.address, self.file], alert=self.status, **_AT_ONCE)
        self._search = search
        for event in (self.list_button.click, self.address.submit, chosen.success):
            listing = on(
                event,
                self.list_files,
                reads,
                table,
                failed=self._list_failed,
                owner_only=True,
                trigger_mode="always_last",
                concurrency_limit=None,
            )
            fitting = [self.fits, self.download, self.status]
            options: Options = {"owner_only": True, "js": _READ_CHECKBOXES, "concurrency_limit": 1}
            on(listing.then, self.show_fits, reads, fitting, failed=self._fits_failed, **options)
        summed = [self.download, self.status]
        latest: Options = {"js": _READ_CHECKBOXES, "trigger_mode": "always_last", "queue": False}
        for event in (self.files.select, self.file.change, self.address.change):
            on(event, self.sum_up, reads, summed, failed=self._sum_failed, **latest)
        begun = [*jobs.writes, *table, sha256]
        unlimited: Options = {"js": _READ_CHECKBOXES, "concurrency_limit": None}
        for event in (self.download.click, self.file.submit):
            on(event, self.start, [*reads, sha256], begun, alert=self.status, owner_only=True, **unlimited)
        on(jobs.jobs.end, self.mark_downloaded, [self.listed], [self.downloaded], queue=False)

    # -- the files of a repository --------------------------------------------------------------------------------

    def choose(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Enter the repository of a search result, whose files are listed then."""
        return {self.address: self._search.chosen(event), self.file: ""}

    async def list_files(self, listed: object, address: object, file: object) -> AsyncIterator[Updates]:
        """Show the table of files. The file name that was typed stays if the repository has such a file."""
        parsed = self._app.mirrors.parse_address(_text(address))
        yield {self.status: self._asking()}
        yield await asyncio.to_thread(self._list, parsed, _text(address), _text(file))

    def _asking(self) -> str:
        return self._page.info("dl_asking", host=host_of(self._app.mirrors.endpoints[0]))

    def _list_failed(self, error: WebUIError) -> Updates:
        nothing = {self.files: "", self.listed: {}, self.download: self._page.tr("dl_download")}
        return nothing | {self.status: self._page.alert(error) + settings_link(error, self._page.tr)}

    def _list(self, address: RepoAddress, text: str, file: str, again: bool = True) -> Updates:
        repository = self._app.mirrors.repository(address, again)
        choices = file_choices.list_choices(repository)
        selected = request.preselected_choices(repository, address)
        downloaded = request.present_choices(self._app.downloads, repository, choices, self._probed_kind(repository))
        lora = file_choices.repository_kind(repository) == "lora"
        page, commit = self._page, repository.commit
        kept = file if _has(repository, file) else ""
        return {
            self.files: file_table.table(choices, selected, downloaded, commit, page.language, page.tr, lora),
            self.downloaded: "",
            self.listed: {"text": text, "commit": commit},
            self.file: kept,
            **self._sum(lambda: self._with_kind(_select(repository, address, kept, sorted(selected)))),
        }

    async def show_fits(self, listed: object, address: object = "", file: object = "") -> Updates:
        """Show which files would fit into memory, and sum up again if the address was edited while they were listed.

        For LoRAs, correct where the files go once the headers are read.
        """
        repository = await asyncio.to_thread(self._listed_repository, listed)
        if repository is None:
            return {self.fits: gr.skip()}
        fitting = await asyncio.to_thread(self._app.download_fit.verdicts, repository)
        lora = self._probed_kind(repository) == "lora"
        edited = isinstance(listed, dict) and _text(address) not in ("", listed["text"])
        summed = self.sum_up(listed, address, file) if lora or edited else {}
        html = file_table.fits(fitting, repository.commit, self._page.language, self._page.tr)
        return {self.fits: html, **summed}

    def _fits_failed(self, error: WebUIError) -> Updates:
        """Leave the column empty: the download reports the error, if it persists."""
        return {self.fits: ""}

    def mark_downloaded(self, listed: object) -> Updates:
        """Mark the files of the table that have been downloaded meanwhile."""
        repository = self._listed_repository(listed)
        if repository is None:
            return {self.downloaded: gr.skip()}
        kind, choices = self._probed_kind(repository), file_choices.list_choices(repository)
        names = request.present_choices(self._app.downloads, repository, choices, kind)
        return {self.downloaded: file_table.downloaded(names, repository.commit, self._page.tr)}

    def _listed_repository(self, listed: object) -> Repository | None:
        """Return the repository that the table shows, if it is still cached."""
        text = listed.get("text") if isinstance(listed, dict) else None
        mirrors = self._app.mirrors
        return mirrors.cached_repository(mirrors.parse_address(text)) if isinstance(text, str) else None

    def _probed_kind(self, repository: Repository) -> Kind | None:
        """Return the kind of the repository's GGUF files by the headers read so far."""
        return self._app.mirrors.kind(repository, _smallest_gguf(repository), fetch=False)

    # -- the choice -----------------------------------------------------------------------------------------------

    def sum_up(self, listed: object, address: object, file: object) -> Updates:
        """Show what the button would download, without asking the hub."""
        try:
            self._app.refuse_guests()
            parsed = self._app.mirrors.parse_address(_text(address))
            selected, repository = self._selected(listed, parsed), self._app.mirrors.cached_repository(parsed)
            if selected is None or repository is None:
                return self._no_sum()
            names = [*selected, *_selected_without_row(repository, parsed)]
            return self._sum(lambda: self._with_kind(_select(repository, parsed, _text(file), names)))
        except WebUIError:  # reported when the button is pressed: the address may still be incomplete
            return self._no_sum()

    def _sum_failed(self, error: WebUIError) -> Updates:
        return {self.download: self._page.tr("dl_download"), self.status: self._page.alert(error)}

    def _no_sum(self) -> Updates:
        return {self.download: self._page.tr("dl_download"), self.status: ""}

    def _with_kind(self, choice: Selection, fetch: bool = False) -> Selection:
        """Add the kind that the headers tell; with `fetch`, headers not read yet are fetched."""
        return dataclasses.replace(choice, kind=self._app.mirrors.kind(choice.repository, choice.files, fetch))

    def _sum(self, choose: Callable[[], Selection]) -> Updates:
        tr = self._page.tr
        try:
            choice = choose()
        except NothingToDownload:
            return {self.download: tr("dl_download"), self.status: self._page.info("dl_select")}
        except WebUIError as error:
            return self._sum_failed(error)
        count, size = len(choice.files), decimal_size(choice.size)
        label = tr("dl_download_one" if count == 1 else "dl_download_these").format(count=count, size=size)
        return {self.download: label, self.status: self._summary(choice)}

    def _summary(self, choice: Selection) -> str:
        """Render where the files go, and whether the disk has room for them."""
        spec, tr, downloads = choice.spec, self._page.tr, self._app.downloads
        missing = sum(file.size for file in request.missing_files(downloads, choice))
        root, folder = downloads.install_target(spec).root, "loras" if spec.kind == "lora" else "models"
        name = choice.files[0].path.rpartition("/")[2] if len(choice.files) == 1 else ""
        key = "dl_lora_to" if spec.kind == "lora" else "dl_to"
        target = tr(key).format(place=f"{folder}/{spec.target or name}")
        try:
            downloads.check_space(spec, missing)
        except DiskFull as error:
            sizes = {key: decimal_size(getattr(error, key)) for key in ("needed", "free")}
            return file_table.summary(target, tr("dl_disk_short").format(**sizes))
        more = tr("dl_disk").format(free=decimal_size(free_space(root))) if missing else tr("dl_all_here")
        if replaced := len(request.replaced_files(downloads, choice)):
            more += " · " + tr("dl_replaces").format(count=replaced)
        return file_table.summary(f"{target} · {more}")

    def _selected(self, listed: object, address: RepoAddress) -> list[str] | None:
        """Return the selected choices if the table is that of `address`. What the browser sent may be anything."""
        if not isinstance(listed, dict) or not isinstance(listed.get("text"), str):
            return None
        if self._app.mirrors.parse_address(listed["text"]) != address:
            return None
        selected = listed.get("selected")
        return [name for name in selected if isinstance(name, str)] if isinstance(selected, list) else None

    # -- the download ---------------------------------------------------------------------------------------------

    async def start(self, listed: object, address: object, file: object, sha256: object) -> AsyncIterator[Updates]:
        """Download what the button says."""
        parsed = self._app.mirrors.parse_address(_text(address))
        selected = self._selected(listed, parsed)
        if selected is None:
            yield {self.status: self._asking()}
        commit = str(listed.get("commit")) if isinstance(listed, dict) and selected is not None else ""
        texts = (_text(address), _text(file), _text(sha256).lower())
        yield await asyncio.to_thread(self._start, parsed, *texts, selected, commit)

    def _start(
        self, address: RepoAddress, text: str, file: str, sha256: str, selected: list[str] | None, commit: str
    ) -> Updates:
        """Start the job; if there is something to choose first, list the files. `commit` is that of the table."""
        repository = self._app.mirrors.repository(address, refresh=selected is None)
        if commit not in ("", repository.commit):
            changed = self._page.info("dl_changed", repo=repository.name)
            return self._list(address, text, file, again=False) | {self.status: changed}
        names = None if selected is None else [*selected, *_selected_without_row(repository, address)]
        try:
            choice = _select(repository, address, file, names)
        except NothingToDownload:
            if selected is not None:
                return {self.status: self._page.info("dl_select")}
            return self._list(address, text, file, again=False)  # several GGUF files, of which the user has to choose
        request.pin_checksum(choice, sha256)  # an invalid checksum is refused before the hub is asked
        choice = self._with_kind(choice, fetch=True)
        self._app.downloads.start(request.pin_checksum(choice, sha256))
        return {self.status: self._summary(choice), self._sha256: "", **self._jobs.refresh(None)}


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _select(repository: Repository, address: RepoAddress, file: str, choices: Sequence[str] | None) -> Selection:
    criteria = FileCriteria(files=(file,) if file else (), choices=choices)
    return request.select_files(repository, address, criteria)


def _has(repository: Repository, name: str) -> bool:
    return any(name in (file.path, file.path.rpartition("/")[2]) for file in repository.files)


def _smallest_gguf(repository: Repository) -> list[RemoteFile]:
    """Return the smallest GGUF file, whose kind stands for that of the others."""
    files = [file for file in repository.files if file.path.lower().endswith(".gguf")]
    return [min(files, key=lambda file: file.size)] if files else []


def _selected_without_row(repository: Repository, address: RepoAddress) -> list[str]:
    """Return the choices that are selected but have no row, so that the browser cannot send them."""
    selected = request.preselected_choices(repository, address)
    _, hidden = file_table.split_rows(file_choices.list_choices(repository), selected)
    return [choice.name for choice in hidden if choice.name in selected]
