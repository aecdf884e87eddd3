"""The card that leads to a first answer: get a model, or load the one that is picked. Empty once one is in use."""

from __future__ import annotations

from html import escape

from modules.app import App
from modules.catalog.record import ModelRecord
from modules.core.errors import ModelNotFound, WebUIError
from modules.downloads.record import ACTIVE_STATES
from modules.downloads.view import JobView
from modules.planning.starter_models import StarterModel
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates
from modules.ui.locales import Tr
from modules.ui.model.model_list import sent_name
from modules.ui.widgets.messages import alert, decimal_size, shrinkable_name
from modules.ui.widgets.option_form import Component

gr = gradio()

_SCRIPT = """element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-act]");
  if (!pressed) return;
  const { act, value } = pressed.dataset;
  if (act === "copy") {
    const done = () => { pressed.textContent = pressed.dataset.done; };
    if (navigator.clipboard) navigator.clipboard.writeText(value).then(done);
    else {
      getSelection().selectAllChildren(element.querySelector(".tx-first-path"));
      document.execCommand("copy");
      done();
    }
  } else if (act === "load") trigger("load_model", {});
  else if (act === "refresh") trigger("refresh_list", {});
  else trigger("get_model", { file: value });
});"""

_RANKS = {1: ("best",), 2: ("best", "fast"), 3: ("best", "balanced", "fast")}


class FirstRun:
    """Created inside the current Gradio container; `ModelTab.attach_first_run` attaches the handlers.

    With `offers_load`, the card offers to load the model picked; on the Model page, the list does that.
    """

    def __init__(self, page: Page, elem_id: str, offers_load: bool = False) -> None:
        self._page, self._app, self._offers_load = page, page.app, offers_load
        self.part: Component = gr.HTML(
            "", elem_id=elem_id, elem_classes="tx-first", js_on_load=_SCRIPT, apply_default_css=False
        )

    # -- handlers ---------------------------------------------------------------------------------------------------

    def get(self, picked: object, event: gr.EventData) -> Updates:  # type: ignore[name-defined]
        """Download a starter model, which is loaded when it is complete."""
        try:
            self._app.starters.start(sent_name(event, "file"))
        except KeyError:
            return {self.part: gr.skip()}
        return self.show(picked)

    def failed(self, error: WebUIError) -> Updates:
        return {self.part: self.html(None, error)}

    def show(self, picked: object) -> Updates:
        """Show what to do next. `picked` is the model picked in the menu."""
        return {self.part: self.html(picked)}

    def update(self, picked: object, shown: object) -> Updates:
        """Update a page that shows the card `shown`, if it has changed."""
        html = self.html(picked)
        return {self.part: gr.skip() if html == (shown or "") else html}

    # -- HTML -------------------------------------------------------------------------------------------------------

    def html(self, picked: object, error: WebUIError | None = None) -> str:
        """Render the card; "" if a model is in use or being loaded."""
        if self._app.models.status.state in ("ready", "loading", "asleep"):
            return ""
        names = [record.name for record in self._app.selectable_models()]
        if not names:
            return self._get_a_model(error)
        if not self._offers_load:
            return ""
        name = picked if picked in names else self._app.default_model()
        try:
            record = self._app.record(str(name))
        except ModelNotFound:  # deleted meanwhile
            return ""
        problem = error or record.problem or self._app.models.status.error
        shown = alert(problem, self._page.language, self._page.tr) if problem else ""
        return load_card(record, self._page.owner, self._page.tr, shown)

    def _get_a_model(self, error: WebUIError | None) -> str:
        page, tr, app = self._page, self._page.tr, self._app
        if not page.owner:
            return _card("guest", f"<p>{escape(tr('first_guest'))}</p>", tr("first_title"))
        models, free = app.starters.offered()
        jobs = app.starters.jobs()
        problem = error or app.catalog.problem
        items = "".join(
            _starter(model, rank, jobs.get(model.file), page.language, tr)
            for model, rank in zip(models, _RANKS[len(models)], strict=True)
        )
        intro = tr("first_intro").format(free=decimal_size(free)) if free else tr("first_intro_unknown")
        shown = alert(problem, page.language, tr) if problem else ""
        content = f'<p>{escape(intro)}</p><ul class="tx-first-models">{items}</ul>{shown}{_folder(app, tr)}'
        return _card("empty", content, tr("first_title"))


def load_card(record: ModelRecord, owner: bool, tr: Tr, problem: str = "") -> str:
    """Render the card that offers to load a model; `problem` is HTML that says why it cannot be loaded, or was not."""
    facts = " · ".join(filter(None, (record.quantization or record.format, decimal_size(record.size))))
    label = tr("first_load")
    disabled = "" if owner and record.problem is None else " disabled"
    button = f'<button type="button" class="tx-first-main" data-act="load"{disabled}>{escape(label)}</button>'
    name = f'<b class="tx-first-name" title="{escape(record.name, quote=True)}">{shrinkable_name(record.name)}</b>'
    return _card("load", f'<div class="tx-first-row">{name}<span>{escape(facts)}</span>{button}</div>{problem}', "")


def _card(stage: str, content: str, title: str) -> str:
    heading = f"<h2>{escape(title)}</h2>" if title else ""
    return f'<section class="tx-first-card" data-stage="{stage}">{heading}{content}</section>'


def _starter(model: StarterModel, rank: str, job: JobView | None, language: str, tr: Tr) -> str:
    facts = f"{decimal_size(model.size)} · {model.quantization} · {model.license}"
    state = _job_state(job, language, tr) if job else ""
    running = job is not None and (job.state in ACTIVE_STATES or job.state == "done")
    kind = ' class="tx-first-main"' if rank == "balanced" else ""
    key = "first_resume" if job is not None and job.state in ("paused", "failed") else "first_get"
    label = f"{tr(key)} {model.title}"
    button = (
        f'<button type="button"{kind} data-act="get" data-value="{escape(model.file, quote=True)}" '
        f'aria-label="{escape(label, quote=True)}">{escape(tr(key))}</button>'
    )
    return (
        f'<li><div class="tx-first-row"><b>{escape(model.title)}</b><em>{escape(tr(f"first_{rank}"))}</em>'
        f"<span>{escape(facts)}</span>{'' if running else button}</div>{state}</li>"
    )


def _job_state(job: JobView, language: str, tr: Tr) -> str:
    """Render the progress of a download, or why it has stopped."""
    if job.state == "cancelled":
        return ""
    if job.error is not None:
        return alert(job.error, language, tr)
    share = 100.0 if job.state == "done" else 100 * job.done / job.total if job.total else 0.0
    text = tr(f"dl_{job.state}")
    if job.total and job.state != "done":
        text += f" · {decimal_size(job.done)} / {decimal_size(job.total)}"
    return (
        f'<div class="tx-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}" '
        f'aria-label="{escape(tr("dl_downloading"), quote=True)}"><i style="width:{share:.1f}%"></i></div>'
        f'<p class="tx-first-state">{escape(text)}</p>'
    )


def _folder(app: App, tr: Tr) -> str:
    path = str(app.catalog.folder)
    copy = (
        f'<button type="button" data-act="copy" data-value="{escape(path, quote=True)}" '
        f'data-done="{escape(tr("models_copied"), quote=True)}">{escape(tr("first_copy"))}</button>'
    )
    refresh = f'<button type="button" data-act="refresh">{escape(tr("first_refresh"))}</button>'
    return (
        f'<p class="tx-first-or">{escape(tr("first_or"))}</p>'
        f'<div class="tx-first-row"><code class="tx-first-path">{escape(path)}</code>{copy}{refresh}</div>'
    )
