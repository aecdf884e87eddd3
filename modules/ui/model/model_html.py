"""A model as HTML: its facts, its state, its memory and the explanation of a load. Everything is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from html import escape

from modules.catalog.record import ModelRecord
from modules.core.events import Json
from modules.core.worker_errors import WorkerDied
from modules.options.load import OPTIONS
from modules.options.option import Value
from modules.planning.fit import Fit, Part
from modules.runtime.status import Status
from modules.ui.locales import Tr
from modules.ui.widgets.messages import alert, decimal_size, info, shrinkable_name
from modules.ui.widgets.option_form import slug

REMEDY_CLICK = """element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-change]");
  if (pressed) trigger("click", { change: JSON.parse(pressed.dataset.change) });
})"""
"""Script of the memory bars: a click on a remedy becomes an event with the options to change."""
_STAGES = {"kernels": "stage_kernels", "server": "stage_server", "machines": "stage_machines"}
"""Stages of a load whose progress is unknown, and their texts."""


def pill(status: Status, tr: Tr) -> str:
    """Render the model's state for the header, a button that opens a menu: its name, its loader and context length."""
    percent = "" if status.stage in _STAGES else f" {status.progress:.0%}"
    rest = {
        "empty": tr("no_model"),
        "loading": tr("loading") + percent,
        "failed": tr("model_stopped" if isinstance(status.error, WorkerDied) else "failed"),
        "asleep": tr("resident_asleep"),
        "ready": f"{status.loader} · {tr('pill_context').format(count=status.context_length)}",
    }[status.state]
    rest, unreachable = (rest, "") if status.is_reachable else (tr("resident_unreachable"), " tx-unreachable")
    name = f"{shrinkable_name(status.name)}<b>·</b>" if status.name else ""
    loader = f' data-loader="{slug(status.server or status.loader)}"' if status.state == "ready" else ""
    title = f"{status.name} · {status.address}" if status.address not in ("", status.name) else status.name
    return (
        f'<button type="button" class="tx-pill tx-{status.state}{unreachable}" aria-haspopup="dialog" '
        f'title="{escape(title, quote=True)}"{loader}>'
        f'<i class="tx-dot"></i>{name}<span class="tx-pill-rest">{escape(rest)}</span></button>'
    )


def used(status: Status) -> str:
    """Render the name of the model that is loaded or being loaded, for the list of models. Nothing of it is visible.

    By it, the page hides what the model cannot do.
    """
    name, state = escape(status.name, quote=True), escape(status.state, quote=True)
    lacks = " data-without-loras" if status.server and "lora" not in status.abilities else ""
    return f'<i data-used="{name}" data-state="{state}"{lacks}></i>'


def load_status(status: Status, tr: Tr, language: str) -> str:
    """Render the status line of the Model page, with a progress bar while a model is loaded."""
    if status.error is not None:
        return alert(status.error, language, tr)
    if status.state == "loading":
        percent = f"{status.progress:.0%}"
        stage = tr(_STAGES[status.stage]) if status.stage in _STAGES else f"{tr('stage')} {percent}"
        return (
            f'<div class="tx-status" role="status" aria-live="off">{escape(stage)}'
            f'<div class="tx-bar"><i style="width:{percent}"></i></div></div>'
        )
    if not status.is_reachable:
        return info(tr("status_unreachable").format(model=status.name))
    if status.state == "ready" and status.address:
        text = tr("status_connected").format(server=status.address, context=status.context_length)
        return info(text) + f'<a class="tx-to-chat" href="#chat">{escape(tr("to_chat"))}</a>'
    if status.state == "ready":
        seconds, memory = f"{status.seconds:.1f}", decimal_size(status.memory)
        text = tr("status_ready").format(seconds=seconds, context=status.context_length, memory=memory)
        return info(text) + f'<a class="tx-to-chat" href="#chat">{escape(tr("to_chat"))}</a>'
    if status.state == "asleep":
        return info(tr("status_asleep").format(model=status.name))
    if status.freed:
        return info(tr("status_freed").format(memory=decimal_size(status.freed)))
    return info(tr("status_empty"))


NO_OPTIONS = "<i hidden data-without-options></i>"
"""Stands before the facts of a model that cannot be loaded: the page hides the options, which are another model's."""


def facts(record: ModelRecord, tr: Tr, is_owner: bool = True) -> str:
    """Render what a model's files say about it, as chips; where it is, to the owner alone."""
    missing_template = "no_default_template" if record.named_templates else "no_chat_template"
    has_template = bool(record.chat_template or record.server)  # servers have their own
    chips = [
        record.architecture,
        f"{record.parameters / 1e9:.1f}B" if record.parameters >= 1e9 else "",
        f"{record.parameters / 1e6:.0f}M" if 0 < record.parameters < 1e9 else "",
        record.quantization or record.format,
        decimal_size(record.size) if record.size else "",
        tr("layers").format(count=record.layers) if record.layers else "",
        tr("context").format(count=record.context_length) if record.context_length else "",
        tr(f"state_{record.state}") if record.state else "",
        tr("duplicate").format(name=record.duplicate_of) if record.duplicate_of else "",
        tr(f"task_{record.task}") if record.task else "",
        *((record.server.url if is_owner else "", record.server.model) if record.server else ()),
        "" if has_template or record.problem or record.task else tr(missing_template),
    ]
    shown = "".join(f"<span>{escape(chip)}</span>" for chip in chips if chip)
    return f'<div class="tx-chips" data-model="{escape(record.name, quote=True)}">{shown}</div>'


def memory(fit: Fit | None, tr: Tr, language: str) -> str:
    """Render the memory that a load needs against what is free, one bar per device, with remedies if it is short."""
    if fit is None:
        return ""
    bars = "".join(_device(part, tr) for part in fit.parts if part.need.total)
    buttons = "".join(_remedy(change, tr, language) for change in fit.remedies)
    remedies = f'<p class="tx-remedies">{escape(tr("remedies"))}{buttons}</p>' if buttons else ""
    return bars + remedies


def _device(part: Part, tr: Tr) -> str:
    need, free = part.need, part.device.free
    shares = {"weights": need.weights, "cache": need.cache, "buffers": need.compute + need.other}
    whole = max(need.total, free, 1)
    bars = "".join(
        f'<i class="tx-{share}" style="width:{100 * count / whole:.2f}%" '
        f'title="{escape(tr(share))} {decimal_size(count)}"></i>'
        for share, count in shares.items()
    )
    sizes = {"need": decimal_size(need.total), "free": decimal_size(free)}
    line = tr(f"memory_{part.verdict}").format(device=part.device.name or tr("main_memory"), **sizes)
    split = " · ".join(f"{tr(share)} {decimal_size(count)}" for share, count in shares.items())
    return (
        f'<div class="tx-memory tx-{part.verdict}" role="status"><p>{escape(line)}</p>'
        f'<div class="tx-bar">{bars}</div><p class="tx-split">{escape(split)}</p></div>'
    )


def _remedy(change: Mapping[str, Value], tr: Tr, language: str) -> str:
    labels = {key: OPTIONS[key].label[language] for key in change}
    parts = [labels[key] if value is True else f"{labels[key]} {value}" for key, value in change.items()]
    text = tr("list_comma").join(parts)
    content = escape(json.dumps(dict(change)), quote=True)
    return f'<button type="button" data-change="{content}">{escape(text)}</button>'


def reasons(chosen: str, others: Mapping[str, str], tr: Tr) -> str:
    """Render why the chosen loader suits the model, with the reasons for the others, by loader name, folded below."""
    items = "".join(f"<li><b>{escape(name)}</b> {escape(text)}</li>" for name, text in others.items())
    more = f"<details><summary>{escape(tr('other_loaders'))}</summary><ul>{items}</ul></details>" if items else ""
    return info(chosen) + (f'<div class="tx-notes">{more}</div>' if more else "")


def explanation(explained: Mapping[str, Json], language: str, tr: Tr) -> str:
    """Render an engine's explanation: notes on options without full effect, and the exact calls, folded."""
    if reason := explained.get("unavailable"):
        return f'<div class="tx-notes"><p class="tx-notes-title">{escape(reason[language])}</p></div>'
    notes: Iterable[Mapping[str, Json]] = explained.get("notes", ())
    items = "".join(
        f"<li><code>{escape(note['option'])}</code> {escape(note['text'][language])}</li>" for note in notes
    )
    shown = f'<p class="tx-notes-title">{escape(tr("notes"))}</p><ul>{items}</ul>' if items else ""
    if "calls" in explained:
        calls = escape(json.dumps(explained["calls"], indent=2, ensure_ascii=False))
        shown += f"<details><summary>{escape(tr('calls'))}</summary><pre>{calls}</pre></details>"
    return f'<div class="tx-notes">{shown}</div>' if shown else ""
