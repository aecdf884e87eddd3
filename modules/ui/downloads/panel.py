"""The download panel below the Model tab: what a repository has, what of it to have, and how downloads come along."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any

from modules.app import App
from modules.core.errors import WebUIError
from modules.downloads import request
from modules.downloads.partial_file import free
from modules.downloads.request import Chosen
from modules.downloads.view import JobView
from modules.hub import file_choices
from modules.hub.endpoints import host
from modules.hub.errors import DiskFull, NothingToDownload
from modules.hub.repo_id import Address
from modules.hub.repository import Kind, RemoteFile, Repository
from modules.ui.downloads import html
from modules.ui.downloads.settings import DownloadSettings
from modules.ui.gradio_import import gradio
from modules.ui.handlers import PRIVATE, UNCHECKED, Updates, as_error
from modules.ui.locales import Tr, translator
from modules.ui.model.lora_card import WEIGHTS
from modules.ui.model.tab import ModelTab
from modules.ui.widgets import html as common_html

gr = gradio()

HERE = Path(__file__).parent
TICKED = """(shown, ...others) => {
  const table = document.querySelector("#tx-dl-files .tx-dl-table");
  const drawn = table && table.dataset.commit === shown?.commit;
  const boxes = drawn ? [...table.querySelectorAll("input:checked")] : [];
  return [drawn ? { ...shown, ticked: boxes.map((box) => box.value) } : shown, ...others];
}"""
"""The boxes as they are when the event happens: what the server has heard of them may be older."""
FILL = """watch("value", () => document.dispatchEvent(new Event("tx-dl-told")))"""


def shown_jobs(app: App) -> tuple[JobView, ...]:
    """Return the downloads that the page shows: to guests none, for others' are not their business."""
    return () if app.flags.on("multi_user") else app.downloads.snapshot()


class DownloadsPanel:
    """Made below the Model tab, whose menu it brings up to date. `poll` is for the page to call now and then."""

    def __init__(self, app: App, language: str, model_tab: ModelTab) -> None:
        self._app, self._language, self._model_tab = app, language, model_tab
        self._tr: Tr = translator(language)
        self._finished = 0
        self._elsewhere: set[str] = set()
        app.downloads.on_done(self._count)
        with gr.Column(elem_id="tx-downloads", elem_classes="tx-card"):
            self._build()
            self.settings = DownloadSettings(app, language, self._tr)
        self.shown = gr.JSON({}, visible=False)  # what the table is of: the address and its commit
        self.seen = gr.JSON({}, visible=False)  # which list of jobs this page has
        self.polled = [self.jobs, self.seen]
        self._listen()
        self.on_page_load = (self.settings.show, None, self.settings.shown)

    def _build(self) -> None:
        tr, owner = self._tr, not self._app.flags.on("multi_user")
        with gr.Row(elem_classes="tx-row tx-dl-fields"):
            self.address = gr.Textbox(
                interactive=owner,
                label=tr("dl_title"),
                info=tr("dl_info"),
                placeholder=tr("dl_example"),
                max_lines=1,
                scale=3,
                min_width=240,
                elem_id="tx-dl-address",
            )
            self.file = gr.Textbox(
                interactive=owner,
                label=tr("dl_file"),
                info=tr("dl_file_info"),
                max_lines=1,
                scale=2,
                min_width=200,
                elem_id="tx-dl-file",
            )
        self.files = gr.HTML("", elem_id="tx-dl-files", js_on_load=_script("downloads.js"))
        self.fits = gr.HTML("", elem_id="tx-dl-fits", js_on_load=FILL)
        self.here = gr.HTML("", elem_id="tx-dl-here", js_on_load=FILL)
        self.status = gr.HTML("", elem_id="tx-dl-status")
        with gr.Row(elem_classes="tx-buttons tx-dl-buttons"):
            self.download = gr.Button(
                tr("dl_download"), interactive=owner, variant="primary", elem_id="tx-dl-download", scale=2
            )
            self.list = gr.Button(tr("dl_list"), interactive=owner, elem_id="tx-dl-list", scale=1)
        self.jobs = gr.HTML("", elem_id="tx-dl-jobs", js_on_load=_script("download_jobs.js"))
        self.refused = gr.HTML("", elem_id="tx-dl-refused")

    def _listen(self) -> None:
        asked = [self.shown, self.address, self.file]
        listed = [self.files, self.here, self.shown, self.file, self.status, self.download]
        for event in (self.list.click, self.address.submit):
            found = event(
                self.list_files,
                asked,
                listed,
                trigger_mode="always_last",
                concurrency_limit=None,
                **PRIVATE,
            )
            told = [self.fits, self.download, self.status]
            found.then(self.tell_fits, asked, told, js=TICKED, concurrency_limit=1, **PRIVATE)
        summed = {"fn": self.sum_up, "inputs": asked, "outputs": [self.download, self.status], "js": TICKED}
        for event in (self.files.select, self.file.change, self.address.change):
            event(**summed, trigger_mode="always_last", queue=False, **PRIVATE)
        begun = [*self.polled, *listed, self.settings.sha256]
        for event in (self.download.click, self.file.submit):
            event(self.start, [*asked, self.settings.sha256], begun, js=TICKED, concurrency_limit=None, **PRIVATE)
        self.jobs.click(self.act, None, [*self.polled, self.refused], queue=False, **PRIVATE)
        tab = self._model_tab
        self.jobs.end(tab.list_again, tab.model, tab.listed, queue=False, **UNCHECKED).then(**tab.explained, **PRIVATE)
        loras = [tab.loras.names, tab.loras.weights]
        shown = [tab.loras.names, tab.loras.rows, tab.loras.status]
        self.jobs.end(tab.loras.list_again, loras, shown, js=WEIGHTS, queue=False, **UNCHECKED)
        self.jobs.end(self.tell_here, self.shown, self.here, queue=False, **PRIVATE)

    # -- what a repository has ------------------------------------------------------------------------------------

    async def list_files(self, shown: object, text: object, file: object) -> AsyncIterator[Updates]:
        """The table of files. What was typed as the file's name stays if the repository has such a one."""
        try:
            self._app.refuse_guests()
            address = self._app.hubs.address(_text(text))
            yield {self.status: common_html.info(self._asking())}
            yield await asyncio.to_thread(self._listed, address, _text(text), _text(file))
        except Exception as error:
            yield self._nothing() | {self.status: self._alert(error)}

    def _asking(self) -> str:
        return self._tr("dl_asking").format(host=host(self._app.hubs.endpoints[0]))

    def _nothing(self) -> Updates:
        return {self.files: "", self.shown: {}, self.download: self._tr("dl_download")}

    def _listed(self, address: Address, text: str, file: str, again: bool = True) -> Updates:
        repository = self._app.hubs.repository(address, again)
        known = file_choices.choices(repository)
        ticked = request.ticked_at_first(repository, address)
        kind = self._known_kind(repository)
        here = request.there(self._app.downloads, repository, known, kind)
        lora = file_choices.kind(repository) == "lora"
        table = html.table(known, ticked, here, repository.commit, self._language, self._tr, lora)
        kept = file if _has(repository, file) else ""
        return {
            self.files: table,
            self.here: "",
            self.shown: {"text": text, "commit": repository.commit},
            self.file: kept,
            **self._summed(lambda: self._placed(request.chosen(repository, address, kept, sorted(ticked)))),
        }

    async def tell_fits(self, shown: object, text: object = "", file: object = "") -> Updates:
        """Which of the files shown would fit into memory; and where they go, if that is otherwise than was said."""
        try:
            self._app.refuse_guests()
            repository = await asyncio.to_thread(self._seen, shown)
            if repository is None:
                return {self.fits: gr.skip()}
            told = await asyncio.to_thread(self._app.download_fit.verdicts, repository)
            lora = self._known_kind(repository) == "lora"
            again = self.sum_up(shown, text, file) if lora else {}
            return {self.fits: html.fits(told, repository.commit, self._language, self._tr), **again}
        except WebUIError:  # it is told when it is here
            return {self.fits: ""}
        except Exception as error:
            as_error(error)
            return {self.fits: ""}

    def tell_here(self, shown: object) -> Updates:
        """Which of the files shown are here by now."""
        try:
            repository = self._seen(shown)
            if repository is None:
                return {self.here: gr.skip()}
            kind = self._known_kind(repository)
            names = request.there(self._app.downloads, repository, file_choices.choices(repository), kind)
            return {self.here: html.here(names, repository.commit, self._tr)}
        except Exception as error:
            as_error(error)
            return {self.here: ""}

    def _seen(self, shown: object) -> Repository | None:
        """The repository that the table shows, if we still know it."""
        text = shown.get("text") if isinstance(shown, dict) else None
        return self._app.hubs.seen(self._app.hubs.address(text)) if isinstance(text, str) else None

    def _known_kind(self, repository: Repository) -> Kind | None:
        """What the headers that have been read say its GGUF files are."""
        return self._app.hubs.kind(repository, _models(repository), ask=False)

    # -- what of it to have ---------------------------------------------------------------------------------------

    def sum_up(self, shown: object, text: object, file: object) -> Updates:
        """What the button would do now, and what to know before. Nobody is asked for that."""
        try:
            self._app.refuse_guests()
            address = self._app.hubs.address(_text(text))
            ticked, repository = self._ticked(shown, address), self._app.hubs.seen(address)
            if ticked is None or repository is None:
                return {self.download: self._tr("dl_download"), self.status: ""}
            all_ticked = [*ticked, *_undrawn(repository, address)]
            return self._summed(lambda: self._placed(request.chosen(repository, address, _text(file), all_ticked)))
        except WebUIError:  # it is told when the button is pressed: this may still be being typed
            return {self.download: self._tr("dl_download"), self.status: ""}
        except Exception as error:
            return {self.download: self._tr("dl_download"), self.status: self._alert(error)}

    def _placed(self, choice: Chosen, ask: bool = False) -> Chosen:
        """With the kind that its headers tell. Unless `ask`, those that have been seen."""
        return dataclasses.replace(choice, kind=self._app.hubs.kind(choice.repository, choice.files, ask))

    def _summed(self, choose: Callable[[], Chosen]) -> Updates:
        try:
            choice = choose()
        except NothingToDownload:
            return {self.download: self._tr("dl_download"), self.status: common_html.info(self._tr("dl_tick"))}
        except WebUIError as error:
            return {self.download: self._tr("dl_download"), self.status: self._alert(error)}
        count, size = len(choice.files), html.size(choice.size)
        label = self._tr("dl_download_one" if count == 1 else "dl_download_these").format(count=count, size=size)
        return {self.download: label, self.status: self._summary(choice)}

    def _summary(self, choice: Chosen) -> str:
        """Where it goes, and whether there is room."""
        wanted, tr, downloads = choice.wanted, self._tr, self._app.downloads
        lacking = sum(file.size for file in request.missing(downloads, choice))
        root, place = downloads.place(wanted).root, "loras" if wanted.kind == "lora" else "models"
        name = choice.files[0].path.rpartition("/")[2] if len(choice.files) == 1 else ""
        said = tr("dl_lora_to" if wanted.kind == "lora" else "dl_to").format(place=f"{place}/{wanted.target or name}")
        try:
            downloads.check_room(wanted, lacking)
        except DiskFull as error:
            sizes = {key: html.size(getattr(error, key)) for key in ("needed", "free")}
            return html.summary(said, tr("dl_disk_short").format(**sizes))
        more = tr("dl_disk").format(free=html.size(free(root))) if lacking else tr("dl_all_here")
        return html.summary(f"{said} · {more}")

    def _ticked(self, shown: object, address: Address) -> list[str] | None:
        """The boxes ticked in the table, if it is that of the address; what the browser sent may be anything."""
        if not isinstance(shown, dict) or not isinstance(shown.get("text"), str):
            return None
        if self._app.hubs.address(shown["text"]) != address:
            return None
        ticked = shown.get("ticked")
        return [each for each in ticked if isinstance(each, str)] if isinstance(ticked, list) else None

    # -- having it ------------------------------------------------------------------------------------------------

    async def start(self, shown: object, text: object, file: object, digest: object) -> AsyncIterator[Updates]:
        """Begin what the button says."""
        try:
            self._app.refuse_guests()
            address = self._app.hubs.address(_text(text))
            ticked = self._ticked(shown, address)
            if ticked is None:
                yield {self.status: common_html.info(self._asking())}
            known = str(shown.get("commit")) if isinstance(shown, dict) and ticked is not None else ""
            yield await asyncio.to_thread(self._begin, address, _text(text), _text(file), ticked, known, _text(digest))
        except Exception as error:
            yield {self.status: self._alert(error)}

    def _begin(
        self, address: Address, text: str, file: str, ticked: list[str] | None, known: str, digest: str
    ) -> Updates:
        """`known` is the commit whose files were `ticked`."""
        repository = self._app.hubs.repository(address, again=ticked is None)
        if known not in ("", repository.commit):
            return self._listed(address, text, file, again=False) | {
                self.status: common_html.info(self._tr("dl_changed").format(repo=repository.name))
            }
        ticked = None if ticked is None else [*ticked, *_undrawn(repository, address)]
        try:
            choice = request.chosen(repository, address, file, ticked)
        except NothingToDownload:  # a repository of GGUF files, of which the user is to say which
            if ticked is not None:
                raise
            return self._listed(address, text, file, again=False)
        request.pinned(choice, digest.lower())  # before anything is sent
        choice = self._placed(choice, ask=True)
        self._app.downloads.start(request.pinned(choice, digest.lower()))
        return {self.status: self._summary(choice), self.settings.sha256: "", **self.poll(None)}

    # -- how it comes along ---------------------------------------------------------------------------------------

    def _count(self) -> None:
        self._finished += 1

    def poll(self, seen: object) -> Updates:
        """Return the jobs, if they look otherwise than what this page has `seen`."""
        try:
            views = shown_jobs(self._app)
            self._miss(views)
            listed = html.jobs(views, self._finished, self._language, self._tr)
            now = {"digest": hashlib.sha256(listed.encode()).hexdigest()[:16]}
            if now == seen:
                return dict.fromkeys(self.polled, gr.skip())
            return {self.jobs: listed, self.seen: now}
        except Exception as error:
            as_error(error)
            return dict.fromkeys(self.polled, gr.skip())

    def _miss(self, views: Sequence[JobView]) -> None:
        """What another process was at and is no longer listed may well be done."""
        before, self._elsewhere = self._elsewhere, {each.id for each in views if each.elsewhere}
        if before - {each.id for each in views}:
            self._count()

    def act(self, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Pause, resume, cancel or forget a job, as a button of its card says."""
        try:
            self._app.refuse_guests()
            told: Any = event._data if isinstance(event._data, dict) else {}
            deed = self._deeds.get(str(told.get("act")))
            if deed is not None:
                deed(str(told.get("job")))
            return self.poll(None) | {self.refused: ""}
        except Exception as error:
            return self.poll(None) | {self.refused: self._alert(error)}

    @property
    def _deeds(self) -> dict[str, Callable[[str], None]]:
        downloads = self._app.downloads
        return {
            "pause": downloads.pause,
            "resume": downloads.resume,
            "cancel": downloads.cancel,
            "forget": downloads.forget,
            "keep": lambda job: downloads.resume(job, keep_commit=True),
            "anew": lambda job: downloads.resume(job, keep_commit=False),
        }

    def _alert(self, error: BaseException) -> str:
        return common_html.alert(as_error(error), self._language, self._tr)


def _script(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8")


def _text(value: object) -> str:
    return value.strip() if isinstance(value, str) else ""


def _has(repository: Repository, file: str) -> bool:
    return any(file in (each.path, each.path.rpartition("/")[2]) for each in repository.files)


def _models(repository: Repository) -> list[RemoteFile]:
    """One of its GGUF files, which speaks for all of them: the smallest."""
    found = [each for each in repository.files if each.path.lower().endswith(".gguf")]
    return [min(found, key=lambda each: each.size)] if found else []


def _undrawn(repository: Repository, address: Address) -> list[str]:
    """What is ticked without having a row, so that no browser can say it."""
    ticked = request.ticked_at_first(repository, address)
    _, rest = html.drawn(file_choices.choices(repository), ticked)
    return [each.name for each in rest if each.name in ticked]
