"""Small pieces of HTML, pure functions of what they show. Names come from files and the net: all of it is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape

from modules.catalog.catalog import ModelRecord
from modules.core.errors import LoaderUnavailable, WebUIError
from modules.core.events import Json
from modules.options.option import Value
from modules.planning.fit import Fit, Part
from modules.runtime.status import Status
from modules.ui.locales import Tr
from modules.ui.widgets.option_form import slug

GIB, MIB, KIB = 2**30, 2**20, 2**10
TAIL = 12


def size(count: int) -> str:
    """Bytes for people: "98 MB" counts 2**20, as everybody in this field does."""
    if count >= GIB:
        return f"{count / GIB:.1f} GB"
    return f"{count / MIB:.0f} MB" if count >= MIB or not count else f"{max(count // KIB, 1)} KB"


def squeezable(name: str) -> str:
    """A name whose middle gives way where room is short: the quantisation stands at its end."""
    head, tail = (name[:-TAIL], name[-TAIL:]) if len(name) > 2 * TAIL else (name, "")
    return f'<span class="tx-name-head">{escape(head)}</span><span class="tx-name-tail">{escape(tail)}</span>'


def pill(status: Status, tr: Tr) -> str:
    """The header's view of the model: a dot, its name, its loader and context."""
    percent = "" if status.stage == "kernels" else f" {status.progress:.0%}"
    rest = {
        "empty": tr("no_model"),
        "loading": tr("loading") + percent,
        "failed": tr("failed"),
        "ready": f"{status.loader} · {status.context_length}",
    }[status.state]
    name = f"{squeezable(status.name)}<b>·</b>" if status.name else ""
    loader = f' data-loader="{slug(status.loader)}"' if status.state == "ready" else ""
    return (
        f'<div class="tx-pill tx-{status.state}" role="status" title="{escape(status.name, quote=True)}"{loader}>'
        f'<i class="tx-dot"></i>{name}<span class="tx-pill-rest">{escape(rest)}</span></div>'
    )


def model_status(status: Status, tr: Tr, language: str) -> str:
    """The Model tab's line about what is going on, with a bar while loading."""
    if status.error is not None:
        return alert(status.error, language, tr)
    if status.state == "loading":
        percent = f"{status.progress:.0%}"
        doing = tr("stage_kernels") if status.stage == "kernels" else f"{tr('stage')} {percent}"
        return (
            f'<div class="tx-status" role="status">{escape(doing)}'
            f'<div class="tx-bar"><i style="width:{percent}"></i></div></div>'
        )
    if status.state == "ready":
        text = tr("status_ready").format(
            seconds=f"{status.seconds:.1f}", context=status.context_length, memory=size(status.memory)
        )
    else:
        text = tr("status_freed").format(memory=size(status.freed)) if status.freed else tr("status_empty")
    return f'<div class="tx-status" role="status">{escape(text)}</div>'


def alert(error: WebUIError, language: str, tr: Tr) -> str:
    """An error: its first sentence in sight, what a library said at length folded below."""
    first, _, rest = error.say(language).partition("\n")
    more = f"<details><summary>{escape(tr('own_words'))}</summary><pre>{escape(rest)}</pre></details>" if rest else ""
    install = error.install if isinstance(error, LoaderUnavailable) else ""
    line = f"<p>{escape(tr('install_with'))}<code>{escape(install)}</code></p>" if install else ""
    return f'<div class="tx-status tx-alert" role="alert">{escape(first)}{line}{more}</div>'


def info(text: str) -> str:
    return f'<div class="tx-status" role="status">{escape(text)}</div>' if text else ""


def facts(record: ModelRecord, tr: Tr) -> str:
    """What a model's files say of it, as chips."""
    chips = [
        record.architecture,
        f"{record.parameters / 1e9:.1f}B" if record.parameters >= 1e9 else "",
        f"{record.parameters / 1e6:.0f}M" if 0 < record.parameters < 1e9 else "",
        record.quantisation or record.format,
        size(record.size) if record.size else "",
        tr("layers").format(count=record.layers) if record.layers else "",
        tr("context").format(count=record.context_length) if record.context_length else "",
        tr(f"state_{record.state}") if record.state else "",
        tr("duplicate").format(name=record.duplicate_of) if record.duplicate_of else "",
    ]
    shown = "".join(f"<span>{escape(chip)}</span>" for chip in chips if chip)
    return f'<div class="tx-chips" data-model="{escape(record.name, quote=True)}">{shown}</div>'


def memory(fit: Fit | None, tr: Tr) -> str:
    """What a load would take against what is free, a bar for each device, with the remedies if that is too much."""
    if fit is None:
        return ""
    bars = "".join(_device(part, tr) for part in fit.parts if part.need.total)
    buttons = "".join(_remedy(each) for each in fit.remedies)
    offered = f'<p class="tx-remedies">{escape(tr("remedies"))}{buttons}</p>' if buttons else ""
    return bars + offered


def _device(part: Part, tr: Tr) -> str:
    need, free = part.need, part.device.free
    shares = {"weights": need.weights, "cache": need.cache, "buffers": need.compute + need.other}
    whole = max(need.total, free, 1)
    bars = "".join(
        f'<i class="tx-{share}" style="width:{100 * count / whole:.2f}%" title="{escape(tr(share))} {size(count)}"></i>'
        for share, count in shares.items()
    )
    name = part.device.name or tr("main_memory")
    line = tr(f"memory_{part.verdict}").format(device=name, need=size(need.total), free=size(free))
    split = " · ".join(f"{tr(share)} {size(count)}" for share, count in shares.items())
    return (
        f'<div class="tx-memory tx-{part.verdict}" role="status"><p>{escape(line)}</p>'
        f'<div class="tx-bar">{bars}</div><p class="tx-split">{escape(split)}</p></div>'
    )


def _remedy(change: Mapping[str, Value]) -> str:
    words = ", ".join(key if value is True else f"{key} {value}" for key, value in change.items())
    return (
        f'<button type="button" data-change="{escape(json.dumps(dict(change)), quote=True)}">{escape(words)}</button>'
    )


REMEDY = """element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-change]");
  if (pressed) trigger("click", { change: JSON.parse(pressed.dataset.change) });
})"""
"""What the memory's HTML does when such a button is pressed."""


def reasons(this: str, others: Mapping[str, str], tr: Tr) -> str:
    """Why the chosen loader suits the model, with the others folded below."""
    items = "".join(f"<li><b>{escape(name)}</b> {escape(words)}</li>" for name, words in others.items())
    more = f"<details><summary>{escape(tr('other_loaders'))}</summary><ul>{items}</ul></details>" if items else ""
    return info(this) + (f'<div class="tx-notes">{more}</div>' if more else "")


def explanation(told: Mapping[str, Json], language: str, tr: Tr) -> str:
    """What becomes of the chosen options: notes on those that cannot do what they say, and the exact calls."""
    notes: Iterable[Mapping[str, Json]] = told.get("notes", ())
    items = "".join(
        f"<li><code>{escape(note['option'])}</code> {escape(note['text'][language])}</li>" for note in notes
    )
    shown = f'<p class="tx-notes-title">{escape(tr("notes"))}</p><ul>{items}</ul>' if items else ""
    calls = escape(json.dumps(told.get("calls", {}), indent=2, ensure_ascii=False))
    folded = f"<details><summary>{escape(tr('calls'))}</summary><pre>{calls}</pre></details>"
    if reason := told.get("unavailable"):
        return f'<div class="tx-notes"><p class="tx-notes-title">{escape(reason[language])}</p></div>'
    return f'<div class="tx-notes">{shown}{folded}</div>'
