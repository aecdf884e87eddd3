"""The table of a repository's files as HTML. Names come from the network: everything is escaped."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from html import escape

from modules.hub.file_choices import Choice
from modules.planning.download_fit import Verdict
from modules.ui.locales import Tr
from modules.ui.widgets.messages import decimal_size, shrinkable_name

MAX_ROWS = 1000


def table(
    choices: Sequence[Choice],
    selected: Collection[str],
    downloaded: Collection[str],
    commit: str,
    language: str,
    tr: Tr,
    lora: bool = False,
) -> str:
    """Render the choices of a repository, each with a checkbox.

    Whether a model fits into memory is filled in later, from `fits`; it is unknown for a LoRA.
    """
    quants = any(choice.quantization for choice in choices)
    shown, hidden = split_rows(choices, selected)
    rows = "".join(
        _row(number, choice, choice.name in selected, choice.name in downloaded, language, tr)
        for number, choice in enumerate(shown)
    )
    heads = "".join(
        f'<span class="tx-dl-{key}">{escape(tr(f"dl_col_{key}"))}</span>'
        for key in ("file", "quant", "size", "fits", "downloaded")
    )
    kind = " tx-dl-lora" if lora else "" if quants else " tx-dl-plain"
    return (
        f'<div class="tx-dl-table{kind}" data-commit="{escape(commit, quote=True)}">'
        f'<div class="tx-dl-rows"><div class="tx-dl-row tx-dl-head" aria-hidden="true">'
        f'<span class="tx-dl-select"></span>{heads}</div>{rows}</div>{_rest(hidden, selected, tr)}</div>'
    )


def split_rows(choices: Sequence[Choice], selected: Collection[str]) -> tuple[Sequence[Choice], Sequence[Choice]]:
    """Return the choices that get a row, those `selected` first, and the rest, which the browser never receives."""
    if len(choices) <= MAX_ROWS:
        return choices, ()
    ordered = sorted(choices, key=lambda choice: choice.name not in selected)
    return ordered[:MAX_ROWS], ordered[MAX_ROWS:]


def _rest(hidden: Sequence[Choice], selected: Collection[str], tr: Tr) -> str:
    if not hidden:
        return ""
    count = sum(choice.name in selected for choice in hidden)
    text = tr("dl_more_rows").format(count=len(hidden))
    text += tr("dl_more_selected").format(count=count) if count else ""
    return f'<p class="tx-dl-more">{escape(text)}</p>'


def _row(number: int, choice: Choice, selected: bool, downloaded: bool, language: str, tr: Tr) -> str:
    """Render a choice as one label, so that a click anywhere on it selects the checkbox."""
    name = escape(choice.name, quote=True)
    box = f'<input type="checkbox" id="tx-file-{number}" value="{name}"'
    box += (" checked" if selected else "") + (" disabled" if choice.missing else "") + ">"
    chips = [tr("dl_recommended")] if choice.recommended else []
    chips += [tr("dl_parts").format(count=len(choice.files))] if len(choice.files) > 1 else []
    title = f' title="{escape(tr("dl_downloaded_title"), quote=True)}"' if downloaded else ""
    return (
        f'<label class="tx-dl-row" for="tx-file-{number}" data-name="{name}">'
        f'<span class="tx-dl-select">{box}</span>'
        f'<span class="tx-dl-file"><span class="tx-dl-line">{file_name(choice.name)}'
        f"{''.join(map(_chip, chips))}</span>{_warnings(choice, language, tr)}</span>"
        f'<span class="tx-dl-quant">{escape(choice.quantization)}</span>'
        f'<span class="tx-dl-size">{decimal_size(choice.size)}</span>'
        f'<span class="tx-dl-fits"></span>'
        f'<span class="tx-dl-downloaded"{title}>{escape(tr("dl_downloaded")) if downloaded else ""}</span></label>'
    )


def file_name(text: str) -> str:
    """Render a name that is shortened in the middle, with the whole name as its title."""
    return f'<span class="tx-dl-name" title="{escape(text, quote=True)}">{shrinkable_name(text)}</span>'


def _chip(text: str) -> str:
    return f'<em class="tx-dl-chip">{escape(text)}</em>'


def _warnings(choice: Choice, language: str, tr: Tr) -> str:
    texts = [choice.warning[language]] if choice.warning else []
    texts += [tr("dl_missing_parts").format(names=", ".join(choice.missing))] if choice.missing else []
    return "".join(f'<span class="tx-dl-warning">{escape(text)}</span>' for text in texts)


def downloaded(names: Collection[str], commit: str, tr: Tr) -> str:
    """Render what `downloads.js` writes into the last column of that commit's table after a download."""
    cells = {name: [tr("dl_downloaded"), tr("dl_downloaded_title")] for name in sorted(names)}
    return _cells("downloaded", cells, commit)


def fits(verdicts: Mapping[str, Verdict], commit: str, language: str, tr: Tr) -> str:
    """Render what `downloads.js` writes into that commit's table: text, title and kind by choice."""
    return _cells("fits", {name: _verdict(verdict, language, tr) for name, verdict in verdicts.items()}, commit)


def _cells(column: str, cells: Mapping[str, Sequence[str]], commit: str) -> str:
    content = escape(json.dumps(cells, ensure_ascii=False), quote=True)
    return f'<div hidden data-commit="{escape(commit, quote=True)}" data-{column}="{content}"></div>'


def _verdict(verdict: Verdict, language: str, tr: Tr) -> list[str]:
    if verdict.why is not None:
        return [f"✗ {tr('dl_unsupported')}", verdict.why[language], verdict.kind]
    sizes = {"need": decimal_size(verdict.need), "free": decimal_size(verdict.free)}
    title = tr("dl_fits_title" if verdict.context else "dl_weights_title").format(context=verdict.context, **sizes)
    sign = {"fits": "✓", "tight": "!", "short": "✗"}[verdict.kind]
    return [f"{sign} {tr(f'dl_{verdict.kind}').format(**sizes)}", title, verdict.kind]


def summary(text: str, problem: str = "") -> str:
    """Render the line above the button: where the files go, and a `problem` to know of before it is pressed."""
    line = f'<div class="tx-dl-summary" role="status">{escape(text)}</div>' if text else ""
    return line + (f'<div class="tx-status tx-alert" role="alert">{escape(problem)}</div>' if problem else "")
