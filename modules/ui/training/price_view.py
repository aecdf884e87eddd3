"""Prices of options as the page shows them: charts, tables, and their findings in words."""

from __future__ import annotations

import math
from html import escape

from modules.core.errors import Words
from modules.core.events import Json
from modules.evaluation.price_result import PERPLEXITY, Effect, PriceResult
from modules.evaluation.price_state import PriceState
from modules.evaluation.statistics import Interval
from modules.ui.chart_scale import number_text
from modules.ui.charts import IntervalRow, Labels, interval_chart
from modules.ui.locales import Tr, translator
from modules.ui.widgets.messages import decimal_size


def run_json(state: PriceState, language: str, waiting: Words | None = None) -> dict[str, Json]:
    """Return a measurement as the page shows it, without its chart; `waiting` says what has to end first."""
    wanted, left = state.request, state.seconds_left
    return {
        "id": state.id,
        "key": wanted.key,
        "a": wanted.a,
        "b": wanted.b,
        "model": wanted.model,
        "state": state.phase,
        "ended": state.has_ended,
        "done": state.done,
        "total": state.total,
        "value": state.value,
        "pairs": len(state.pairs),
        "seconds": round(state.seconds, 1),
        "left": None if left is None else round(left, 1),
        "disturbed": round(state.foreign_load, 3),
        "error": state.error.say(language) if state.error else "",
        "waiting": waiting[language] if waiting else "",
    }


def result_json(result: PriceResult) -> dict[str, Json]:
    """Return a kept price as the page lists it."""
    return {
        "id": result.id,
        "key": result.key,
        "a": result.a,
        "b": result.b,
        "model": result.model,
        "loader": result.loader,
        "pairs": result.pairs,
        "date": result.date,
    }


def progress_html(state: PriceState, language: str) -> str:
    """Render what the pairs so far tell; "" before the second one."""
    tr = translator(language)
    if len(state.pairs) < 2:
        return ""
    return _chart(state.effects, tr("pc_so_far"), state.request.a, state.request.b, tr)


def result_html(result: PriceResult, language: str) -> str:
    """Render a price: the chart of all changes, a table of the figures, and what may be concluded."""
    tr = translator(language)
    title = f"{result.model} · {result.key}: {_shown(result.a)} → {_shown(result.b)}"
    parts = [_chart(result.effects, title, result.a, result.b, tr), _findings(result, tr), _table(result, tr)]
    if result.kl is not None and result.same_top is not None:
        text = tr("pc_kl").format(kl=_with_ends(result.kl), same=number_text(100 * result.same_top.mean, 4))
        parts.append(f'<p class="tx-s-info">{escape(text)}</p>')
    if result.quality_problem:
        parts.append(f'<p class="tx-s-info">{escape(result.quality_problem[language])}</p>')
    if result.is_disturbed:
        text = tr("pc_disturbed").format(percent=round(100 * result.foreign_load))
        parts.append(f'<p class="tx-s-note">{escape(text)}</p>')
    return "".join([*parts, _circumstances(result, tr)])


def short_text(result: PriceResult, tr: Tr) -> str:
    """Return a price in one line, for the field of its option: the changes that were seen."""
    values = f"{_shown(result.a)} → {_shown(result.b)}"
    seen = [f"{_metric(effect, tr)} {_signed(effect.percent.mean)} %" for effect in result.effects if effect.is_seen]
    return f"{values}{tr('pc_colon')}{' · '.join(seen) or tr('pc_unseen')}"


def _shown(value: str) -> str:
    return value or '""'


def _metric(effect: Effect, tr: Tr) -> str:
    return tr(f"pc_{effect.metric}")


def _signed(value: float) -> str:
    return f"{'+' if value > 0 else '−' if value < 0 else ''}{number_text(abs(value), 3)}"


def _with_ends(interval: Interval) -> str:
    ends = "" if math.isnan(interval.low) else f" ({number_text(interval.low, 3)} … {number_text(interval.high, 3)})"
    return f"{number_text(interval.mean, 3)}{ends}"


def _chart(effects: tuple[Effect, ...], title: str, a: str, b: str, tr: Tr) -> str:
    rows = []
    for effect in effects:
        percent = effect.percent
        if math.isfinite(percent.mean):
            rows.append(IntervalRow(_metric(effect, tr), percent.mean, percent.low, percent.high))
    about = tr("pc_chart_about").format(a=_shown(a), b=_shown(b))
    return interval_chart(rows, Labels(title, about, x=tr("pc_axis"), unit="%"), tr, table=False)


def _findings(result: PriceResult, tr: Tr) -> str:
    """Render what was seen and what was not, in words."""
    seen = [effect for effect in result.effects if effect.is_seen]
    unseen = [effect for effect in result.effects if not effect.is_seen and math.isfinite(effect.change.mean)]
    lines = [
        tr("pc_more" if effect.percent.mean > 0 else "pc_less").format(
            figure=_metric(effect, tr), percent=number_text(abs(effect.percent.mean), 3)
        )
        for effect in seen
    ]
    if unseen:
        figures = tr("pc_comma").join(_metric(effect, tr) for effect in unseen)
        lines.append(tr("pc_unseen_in").format(figures=figures))
    return f'<ul class="tx-p-findings">{"".join(f"<li>{escape(line)}</li>" for line in lines)}</ul>'


def _table(result: PriceResult, tr: Tr) -> str:
    heads = ("", _shown(result.a), _shown(result.b), tr("pc_axis"))
    head = "".join(
        f'<th scope="col" class="tx-p-number">{escape(text)}</th>' if text else "<td></td>" for text in heads
    )
    body = "".join(_table_row(effect, tr) for effect in result.effects)
    name = escape(tr("pc_figures"))
    return (
        f'<div class="tx-p-table" tabindex="0" role="region" aria-label="{name}"><table>'
        f'<caption class="tx-unseen">{name}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _table_row(effect: Effect, tr: Tr) -> str:
    values = [_value(effect.metric, value, tr) for value in (effect.a, effect.b)]
    change = "—" if math.isnan(effect.change.mean) else f"{_with_ends(effect.percent)} %"
    cells = "".join(f'<td class="tx-p-number">{escape(text)}</td>' for text in (*values, change))
    return f'<tr><th scope="row">{escape(_metric(effect, tr))}</th>{cells}</tr>'


def _value(metric: str, value: float, tr: Tr) -> str:
    if metric.endswith("memory"):
        return decimal_size(round(value)) if math.isfinite(value) else "—"
    unit = "" if metric == PERPLEXITY else f" {tr(f'pc_unit_{metric}')}"
    return f"{number_text(value, 4)}{unit}"


def _circumstances(result: PriceResult, tr: Tr) -> str:
    """Render when and on what a price was measured."""
    facts = [result.loader, tr("pc_pairs_of").format(count=result.pairs), result.text, result.date]
    facts += [*result.machine.values(), *(f"{name} {version}" for name, version in result.packages.items())]
    return f'<p class="tx-s-info">{escape(" · ".join(filter(None, facts)))}</p>'
