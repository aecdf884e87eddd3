"""The HTML of downloads: the table of a repository's files, and the jobs. Names come from the net: all is escaped."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Collection, Mapping, Sequence
from html import escape
from pathlib import Path

from modules.downloads.view import JobView
from modules.formats.weight_files import first_part
from modules.hub.errors import RateLimited
from modules.hub.file_choices import Choice
from modules.planning.download_fit import Verdict
from modules.ui.locales import Tr
from modules.ui.widgets import html

MOST_ROWS = 1000
_SHORT_COMMIT = 7
_STALLED = "—"


def size(count: int) -> str:
    """Decimal, as download sites count, with three digits: "4.08 GB" and "256 B"."""
    for unit, factor in (("TB", 10**12), ("GB", 10**9), ("MB", 10**6), ("KB", 10**3)):
        if count >= factor:
            return f"{count / factor:.{2 if count < 10 * factor else 1 if count < 100 * factor else 0}f} {unit}"
    return f"{count} B"


def clock(seconds: float) -> str:
    """ "1:05", "2:00:00": rounded up, for nothing takes no time."""
    minutes, rest = divmod(math.ceil(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


def _name(text: str) -> str:
    """A name that gives way in its middle, whole in its title."""
    return f'<span class="tx-dl-name" title="{escape(text, quote=True)}">{html.squeezable(text)}</span>'


# -- the files ---------------------------------------------------------------------------------------------------


def table(
    choices: Sequence[Choice],
    ticked: Collection[str],
    here: Collection[str],
    commit: str,
    language: str,
    tr: Tr,
    lora: bool = False,
) -> str:
    """What a repository offers, with a box for each choice. Whether it fits is filled in later, by `fits`; of a LoRA,
    nobody can tell."""
    quants = any(each.quantisation for each in choices)
    shown, undrawn = drawn(choices, ticked)
    rows = "".join(
        _row(number, each, each.name in ticked, each.name in here, language, tr) for number, each in enumerate(shown)
    )
    more = tr("dl_more_rows").format(count=len(undrawn))
    chosen = sum(each.name in ticked for each in undrawn)
    more += tr("dl_more_ticked").format(count=chosen) if chosen else ""
    rest = f'<p class="tx-dl-more">{escape(more)}</p>' if undrawn else ""
    heads = "".join(
        f'<span class="tx-dl-{key}">{escape(tr(f"dl_col_{key}"))}</span>'
        for key in ("file", "quant", "size", "fits", "here")
    )
    plain = " tx-dl-lora" if lora else "" if quants else " tx-dl-plain"
    return (
        f'<div class="tx-dl-table{plain}" data-commit="{escape(commit, quote=True)}">'
        f'<div class="tx-dl-rows"><div class="tx-dl-row tx-dl-head" aria-hidden="true">'
        f'<span class="tx-dl-tick"></span>{heads}</div>{rows}</div>{rest}</div>'
    )


def drawn(choices: Sequence[Choice], ticked: Collection[str]) -> tuple[Sequence[Choice], Sequence[Choice]]:
    """Those with a row, and the rest, of which a page can know nothing. What is `ticked` at first has a row before all
    else."""
    if len(choices) <= MOST_ROWS:
        return choices, ()
    ordered = sorted(choices, key=lambda each: each.name not in ticked)
    return ordered[:MOST_ROWS], ordered[MOST_ROWS:]


def _row(number: int, choice: Choice, ticked: bool, here: bool, language: str, tr: Tr) -> str:
    """A label, so that it can be pressed anywhere."""
    name = escape(choice.name, quote=True)
    box = f'<input type="checkbox" id="tx-file-{number}" value="{name}"'
    box += (" checked" if ticked else "") + (" disabled" if choice.missing else "") + ">"
    chip = f'<em class="tx-dl-chip">{escape(tr("dl_recommended"))}</em>' if choice.recommended else ""
    count = len(choice.files)
    chip += f'<em class="tx-dl-chip">{escape(tr("dl_parts").format(count=count))}</em>' if count > 1 else ""
    about = f' title="{escape(tr("dl_here_title"), quote=True)}"' if here else ""
    return (
        f'<label class="tx-dl-row" for="tx-file-{number}" data-name="{name}">'
        f'<span class="tx-dl-tick">{box}</span>'
        f'<span class="tx-dl-file"><span class="tx-dl-line">{_name(choice.name)}{chip}</span>'
        f"{_cautions(choice, language, tr)}</span>"
        f'<span class="tx-dl-quant">{escape(choice.quantisation)}</span>'
        f'<span class="tx-dl-size">{size(choice.size)}</span>'
        f'<span class="tx-dl-fits"></span>'
        f'<span class="tx-dl-here"{about}>{escape(tr("dl_here")) if here else ""}</span></label>'
    )


def _cautions(choice: Choice, language: str, tr: Tr) -> str:
    said = [choice.warning[language]] if choice.warning else []
    said += [tr("dl_lacking").format(names=", ".join(choice.missing))] if choice.missing else []
    return "".join(f'<span class="tx-dl-caution">{escape(each)}</span>' for each in said)


def here(names: Collection[str], commit: str, tr: Tr) -> str:
    """What `downloads.js` writes into the last column of the table of that commit, once more is here."""
    told = {name: [tr("dl_here"), tr("dl_here_title")] for name in sorted(names)}
    return _told("here", told, commit)


def fits(verdicts: Mapping[str, Verdict], commit: str, language: str, tr: Tr) -> str:
    """What `downloads.js` writes into the table of that commit: by choice, words, title and kind."""
    return _told("fits", {name: _verdict(each, language, tr) for name, each in verdicts.items()}, commit)


def _told(what: str, told: Mapping[str, Sequence[str]], commit: str) -> str:
    content = escape(json.dumps(told, ensure_ascii=False), quote=True)
    return f'<div hidden data-commit="{escape(commit, quote=True)}" data-{what}="{content}"></div>'


def _verdict(verdict: Verdict, language: str, tr: Tr) -> list[str]:
    if verdict.why is not None:
        return [f"✗ {tr('dl_unsupported')}", verdict.why[language], verdict.kind]
    sizes = {"need": html.size(verdict.need), "free": html.size(verdict.free)}
    title = tr("dl_fits_title" if verdict.context else "dl_weights_title").format(context=verdict.context, **sizes)
    sign = {"fits": "✓", "tight": "!", "short": "✗"}[verdict.kind]
    return [f"{sign} {tr(f'dl_{verdict.kind}').format(**sizes)}", title, verdict.kind]


# -- the jobs ----------------------------------------------------------------------------------------------------


def jobs(views: Sequence[JobView], finished: int, language: str, tr: Tr) -> str:
    """All jobs. `finished` is another number whenever one has come to its end: the page then lists models again."""
    cards = "".join(_job(each, language, tr) for each in views)
    title = f'<p class="tx-dl-title">{escape(tr("dl_jobs"))}</p>' if views else ""
    return f'<div class="tx-dl-jobs" data-finished="{finished}">{title}{cards}</div>'


def title(view: JobView) -> str:
    """The one file or set of a download, or else its repository."""
    wanted = view.wanted
    if wanted.files and len({first_part(Path(each)) for each in wanted.files}) == 1:
        return wanted.files[0].rpartition("/")[2]
    return wanted.repo if wanted.revision in ("main", view.commit) else f"{wanted.repo}:{wanted.revision}"


def _state(view: JobView) -> str:
    if view.elsewhere:
        return "elsewhere"
    if view.moved:
        return "choose"
    if view.interrupted:
        return "interrupted"
    return "waiting" if view.waiting and view.state in ("resolving", "downloading") else view.state


def _job(view: JobView, language: str, tr: Tr) -> str:
    state = _state(view)
    share = 100 * view.done / view.total if view.total else 0
    full = {"done": 100.0, "cancelled": 0.0}.get(view.state, min(share, 100.0))
    whose = "" if title(view) == view.wanted.repo else f'<span class="tx-dl-repo">{escape(view.wanted.repo)}</span>'
    return (
        f'<div class="tx-dl-job tx-dl-{state}" data-job="{escape(view.id, quote=True)}">'
        f'<div class="tx-dl-top">{_name(title(view))}<span class="tx-dl-state">{escape(tr(f"dl_{state}"))}</span></div>'
        f'<div class="tx-bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{full:.0f}">'
        f'<i style="width:{full:.2f}%"></i></div>'
        f'<div class="tx-dl-bottom"><div class="tx-dl-facts">{whose}{_facts(view, state, tr)}</div>'
        f"{_buttons(view, state, tr)}{_words(view, state, language, tr)}</div></div>"
    )


def _facts(view: JobView, state: str, tr: Tr) -> str:
    if view.state == "done":
        return _saved(view, tr)
    if view.state == "cancelled":
        return ""
    said = [f"{size(view.done)} / {size(view.total)}"] if view.total else []
    if view.total:
        said.append(f"{100 * view.done // view.total}%")
    if state == "downloading":
        said.append(f"{size(int(view.speed))}/s" if view.speed else _STALLED)
        said.append(tr("dl_left").format(clock=clock(view.seconds_left) if view.seconds_left else _STALLED))
    told = "".join(f"<span>{escape(each)}</span>" for each in said)
    if view.index and view.count > 1:
        nth = escape(tr("dl_nth").format(index=view.index, count=view.count))
        told += f"<span>{nth}</span>{_name(view.file) if view.file else ''}"
    return told


def _saved(view: JobView, tr: Tr) -> str:
    place = view.folder / title(view) if view.count == 1 and not view.wanted.target else view.folder
    said = tr("dl_saved").format(folder=place, count=view.count, size=size(view.total), host=view.host)
    return f'<span class="tx-dl-words">{escape(said)}</span>'


def _words(view: JobView, state: str, language: str, tr: Tr) -> str:
    """What there is to read: why it waits, what went wrong, what is to be chosen."""
    if view.error is not None and state in ("failed", "paused"):
        return f'<div class="tx-dl-words">{html.alert(view.error, language, tr)}</div>'
    said = ""
    if state == "waiting" and view.waiting is not None:
        said = _why(view, language, tr)
    elif state == "interrupted":
        said = tr("dl_interrupted_info")
    elif state == "choose":
        commits = {"old": view.commit[:_SHORT_COMMIT], "new": view.moved[:_SHORT_COMMIT]}
        said = tr("dl_moved_info").format(revision=view.wanted.revision, **commits)
    return f'<p class="tx-dl-words">{escape(said)}</p>' if said else ""


def _why(view: JobView, language: str, tr: Tr) -> str:
    assert view.waiting is not None
    seconds = round(view.wait_seconds)
    if isinstance(view.waiting, RateLimited):
        return dataclasses.replace(view.waiting, seconds=seconds).say(language)
    retry = tr("dl_retry").format(attempt=view.attempt, attempts=view.attempts, seconds=seconds)
    return f"{view.waiting.say(language)} {retry}"


def _buttons(view: JobView, state: str, tr: Tr) -> str:
    """None for what another process is at. Cancelling asks first, within the page."""
    if view.elsewhere:
        return ""
    if state in ("done", "cancelled"):
        return f'<div class="tx-dl-acts">{_button("forget", tr("dl_forget"))}</div>'
    if state == "choose":
        acts = _button("keep", tr("dl_keep_old").format(commit=view.commit[:_SHORT_COMMIT]), main=True)
        acts += _button("anew", tr("dl_take_new").format(commit=view.moved[:_SHORT_COMMIT]))
    elif state in ("paused", "interrupted", "failed"):
        acts = _button("resume", tr("dl_again" if state == "failed" else "dl_resume"), main=True)
    else:
        acts = _button("pause", tr("dl_pause"))
    sure = escape(tr("dl_sure").format(size=size(view.done)))
    return (
        f'<div class="tx-dl-acts">{acts}{_button("ask", tr("dl_cancel"))}</div>'
        f'<div class="tx-dl-sure" role="alertdialog"><span>{sure}</span>'
        f"{_button('cancel', tr('dl_sure_yes'), danger=True)}{_button('unask', tr('dl_sure_no'))}</div>"
    )


def _button(act: str, words: str, main: bool = False, danger: bool = False) -> str:
    kind = " tx-dl-main" if main else " tx-dl-danger" if danger else ""
    return f'<button type="button" class="tx-dl-act{kind}" data-act="{act}">{escape(words)}</button>'


def summary(text: str, problem: str = "") -> str:
    """The line above the button: where the choice goes; `problem` is what to know before it is pressed."""
    told = f'<div class="tx-dl-summary" role="status">{escape(text)}</div>' if text else ""
    return told + (f'<div class="tx-status tx-alert" role="alert">{escape(problem)}</div>' if problem else "")
