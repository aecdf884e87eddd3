"""The download jobs as HTML, one card per job. Names come from the network: everything is escaped."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from pathlib import Path

from modules.core.errors import WebUIError
from modules.downloads.view import JobView
from modules.formats.weight_files import first_part
from modules.hub.errors import MirrorUnreachable, NotAHub, RateLimited, RedirectUnreachable
from modules.ui.downloads.file_table import file_name
from modules.ui.locales import Tr
from modules.ui.widgets.messages import alert, decimal_size

_SHORT_COMMIT = 7
_UNKNOWN = "—"


def jobs(views: Sequence[JobView], finished: int, language: str, tr: Tr) -> str:
    """Render all jobs. The page lists the models again whenever `finished` changes."""
    cards = "".join(_job(view, language, tr) for view in views)
    heading = f'<p class="tx-dl-title">{escape(tr("dl_jobs"))}</p>' if views else ""
    return f'<div class="tx-dl-jobs" data-finished="{finished}">{heading}{cards}</div>'


def settings_link(error: WebUIError, tr: Tr) -> str:
    """Render a button that leads to the choice of the download site, if `error` asks for another one."""
    if not isinstance(error, (MirrorUnreachable, RedirectUnreachable, NotAHub)):
        return ""
    label = escape(tr("dl_change_site"))
    return f'<button type="button" class="tx-dl-action tx-dl-change" data-open-site>{label}</button>'


def title(view: JobView) -> str:
    """Return the name of the download's only file or set of parts, or else its repository."""
    spec = view.spec
    if spec.files and len({first_part(Path(name)) for name in spec.files}) == 1:
        return spec.files[0].rpartition("/")[2]
    return spec.repo if spec.revision in ("main", view.commit) else f"{spec.repo}:{spec.revision}"


def clock(seconds: float) -> str:
    """Format a duration, rounded up: "1:05", "2:00:00"."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _state(view: JobView) -> str:
    if view.elsewhere:
        return "elsewhere"
    if view.moved:
        return "choose"
    if view.interrupted:
        return "interrupted"
    return "waiting" if view.waiting and view.state in ("resolving", "downloading") else view.state


def _job(view: JobView, language: str, tr: Tr) -> str:
    state, name = _state(view), title(view)
    share = 100 * view.done / view.total if view.total else 0
    percent = {"done": 100.0, "cancelled": 0.0}.get(view.state, min(share, 100.0))
    repo = "" if name == view.spec.repo else f'<span class="tx-dl-repo">{escape(view.spec.repo)}</span>'
    return (
        f'<div class="tx-dl-job tx-dl-{state}" data-job="{escape(view.id, quote=True)}">'
        f'<div class="tx-dl-top">{file_name(name)}<span class="tx-dl-state">{escape(tr(f"dl_{state}"))}</span></div>'
        f'<div class="tx-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent:.0f}">'
        f'<i style="width:{percent:.2f}%"></i></div>'
        f'<div class="tx-dl-bottom"><div class="tx-dl-facts">{repo}{_facts(view, state, tr)}</div>'
        f"{_buttons(view, state, tr)}{_message(view, state, language, tr)}</div></div>"
    )


def _facts(view: JobView, state: str, tr: Tr) -> str:
    if view.state == "done":
        return _saved(view, tr)
    if view.state == "cancelled":
        return ""
    texts = []
    if view.total:
        texts += [f"{decimal_size(view.done)} / {decimal_size(view.total)}", f"{100 * view.done // view.total}%"]
    if state == "downloading":
        texts.append(f"{decimal_size(int(view.speed))}/s" if view.speed else _UNKNOWN)
        texts.append(tr("dl_left").format(clock=clock(view.seconds_left) if view.seconds_left else _UNKNOWN))
    facts = "".join(f"<span>{escape(text)}</span>" for text in texts)
    if view.index and view.count > 1:
        nth = escape(tr("dl_nth").format(index=view.index, count=view.count))
        facts += f"<span>{nth}</span>{file_name(view.file) if view.file else ''}"
    return facts


def _saved(view: JobView, tr: Tr) -> str:
    path = view.folder / title(view) if view.count == 1 and not view.spec.target else view.folder
    text = tr("dl_saved").format(folder=path, count=view.count, size=decimal_size(view.total), host=view.host)
    return f'<span class="tx-dl-message">{escape(text)}</span>'


def _message(view: JobView, state: str, language: str, tr: Tr) -> str:
    """Render why a job waits, what went wrong, or what the user has to decide."""
    if view.error is not None and state in ("failed", "paused"):
        return f'<div class="tx-dl-message">{alert(view.error, language, tr)}{settings_link(view.error, tr)}</div>'
    text = ""
    if state == "waiting" and view.waiting is not None:
        text = _waiting(view, language, tr)
    elif state == "interrupted":
        text = tr("dl_interrupted_info")
    elif state == "choose":
        commits = {"old": view.commit[:_SHORT_COMMIT], "new": view.moved[:_SHORT_COMMIT]}
        text = tr("dl_moved_info").format(revision=view.spec.revision, **commits)
    return f'<p class="tx-dl-message">{escape(text)}</p>' if text else ""


def _waiting(view: JobView, language: str, tr: Tr) -> str:
    assert view.waiting is not None
    seconds = round(view.wait_seconds)
    if isinstance(view.waiting, RateLimited):
        return tr("dl_rate_limited").format(host=view.waiting.host, seconds=seconds)
    retry = tr("dl_retry").format(attempt=view.attempt, attempts=view.attempts, seconds=seconds)
    return f"{view.waiting.say(language)} {retry}"


def _buttons(view: JobView, state: str, tr: Tr) -> str:
    """Render the buttons of a job; none if another process runs it. Cancel asks first, within the page."""
    if view.elsewhere:
        return ""
    if state in ("done", "cancelled"):
        load = _button("load", tr("dl_load"), main=True) if state == "done" and view.spec.kind == "model" else ""
        return f'<div class="tx-dl-actions">{load}{_button("forget", tr("dl_forget"))}</div>'
    if state == "choose":
        actions = _button("keep", tr("dl_keep_old").format(commit=view.commit[:_SHORT_COMMIT]), main=True)
        actions += _button("restart", tr("dl_take_new").format(commit=view.moved[:_SHORT_COMMIT]))
    elif state in ("paused", "interrupted", "failed"):
        actions = _button("resume", tr("dl_again" if state == "failed" else "dl_resume"), main=True)
    else:
        actions = _button("pause", tr("dl_pause"))
    question = escape(tr("dl_confirm").format(size=decimal_size(view.done)))
    return (
        f'<div class="tx-dl-actions">{actions}{_button("ask", tr("dl_cancel"))}</div>'
        f'<div class="tx-dl-confirm" role="alertdialog"><span>{question}</span>'
        f"{_button('cancel', tr('dl_confirm_yes'), danger=True)}{_button('unask', tr('dl_confirm_no'))}</div>"
    )


def _button(action: str, label: str, main: bool = False, danger: bool = False) -> str:
    kind = " tx-dl-main" if main else " tx-dl-danger" if danger else ""
    return f'<button type="button" class="tx-dl-action{kind}" data-act="{action}">{escape(label)}</button>'
