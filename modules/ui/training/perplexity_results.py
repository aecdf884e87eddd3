"""The table of evaluations as the page shows it: rows, a chart of some of them, and the comparison of two."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from modules.core.events import Json
from modules.evaluation.results import Row
from modules.evaluation.statistics import Interval, t_quantile
from modules.ui.chart_scale import number_text
from modules.ui.charts import IntervalRow, Labels, interval_chart
from modules.ui.locales import Tr

MAX_CHARTED = 12
Paired = Callable[[str, str], Interval | None]
_SAME_TOKENS = ("text_hash", "Dataset", "method", "stride", "max_length", "bos", "windows", "tokens")
_SAME_TEXT = ("text_hash", "Dataset", "windows", "method", "stride", "max_length")


def row_json(row: Row, rows: Sequence[Row]) -> dict[str, Json]:
    """Return what the page shows of a result. `against` is the id of the row with which it was compared in one run."""
    base = reference_of(row, rows)
    return {
        "id": row.id,
        "model": row["Model"],
        "loras": row["LoRAs"],
        "text": row["Dataset"],
        "loader": row["loader"],
        "method": row["method"],
        "stride": row["stride"],
        "max_length": row["max_length"],
        "bos": row["bos"],
        "date": row["Date"],
        "comment": row["Comment"],
        "perplexity": number_in(row, "Perplexity"),
        "se": number_in(row, "se"),
        "token_se": number_in(row, "token_se"),
        "bits": number_in(row, "bits_per_byte"),
        "tokens": number_in(row, "tokens"),
        "kl": number_in(row, "kl"),
        "kl_99": number_in(row, "kl_99"),
        "same_top": number_in(row, "same_top"),
        "against": base.id if base else "",
    }


def number_in(row: Row, column: str) -> float | None:
    """Return the number of a cell; None for an empty cell, and for one that is no finite number."""
    try:
        value = float(row[column])
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def reference_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """Return the row with which `row` was compared token by token; None without one, or if it is gone."""
    if not row["reference"] or not row["difference"]:
        return None
    for other in reversed(rows[: _index(row, rows)]):
        if other["Model"] == row["reference"] and not other["reference"] and _agree(row, other, _SAME_TOKENS):
            return other
    return None


def _index(row: Row, rows: Sequence[Row]) -> int:
    return next((number for number, other in enumerate(rows) if other.id == row.id), 0)


def _agree(row: Row, other: Row, columns: Sequence[str]) -> bool:
    return all(row[column] == other[column] for column in columns)


def label_of(row: Row) -> str:
    """Return what a row is called in charts."""
    loras = "" if row["LoRAs"] in ("", "None") else f" + {row['LoRAs']}"
    return f"{row['Model']}{loras}"


def chart(rows: Sequence[Row], tr: Tr) -> str:
    """Render the perplexities of rows with 95 % intervals by windows; "" without any."""
    shown = [(row, number_in(row, "Perplexity")) for row in rows[-MAX_CHARTED:]]
    intervals = [_interval_row(row, value) for row, value in shown if value is not None]
    texts = {row["Dataset"] for row, _ in shown}
    if not intervals:
        return ""
    if len(texts) > 1:
        intervals = [
            IntervalRow(f"{one.label} · {row['Dataset']}", one.mean, one.low, one.high)
            for one, (row, value) in zip(intervals, [pair for pair in shown if pair[1] is not None], strict=True)
        ]
    title = tr("pp_chart_title").format(text=", ".join(sorted(texts)))
    return interval_chart(intervals, Labels(title, tr("pp_chart_about"), x=tr("perplexity")), tr, reference=None)


def _interval_row(row: Row, value: float) -> IntervalRow:
    error, windows = number_in(row, "se"), number_in(row, "windows")
    if error is None:
        return IntervalRow(label_of(row), value)
    margin = error * (t_quantile(int(windows) - 1) if windows and windows > 1 else 1.96)
    return IntervalRow(label_of(row), value, value - margin, value + margin)


# -- comparison of two rows -------------------------------------------------------------------------------------------


def compare_rows(row: Row, base: Row, rows: Sequence[Row], tr: Tr, paired: Paired = lambda id, base: None) -> str:
    """Render how `row` differs from `base`: token by token if both come from one run, or `paired` compares their ids.

    Else they are compared by their own errors. Rows of different texts, and of different windows of one text, are not
    compared. `base` precedes `row` in `rows`.
    """
    names = {"model": label_of(row), "other": label_of(base)}
    title = tr("pp_compare_title").format(**names)
    if not _agree(row, base, _SAME_TEXT if row["tokens"] == base["tokens"] else ("text_hash", "Dataset")):
        return _paragraphs(tr("pp_compare_other_text"))
    if reference_of(row, rows) is base:
        interval = Interval(*(number_in(row, f"difference{end}") or 0.0 for end in ("", "_low", "_high")))
        has_ends = number_in(row, "difference_low") is not None
        interval = interval if has_ends else Interval(interval.mean, math.nan, math.nan)
        notes = [tr("pp_compare_paired")]
        return _comparison(title, _percent(interval), tr("perplexity"), notes, tr)
    if (found := paired(row.id, base.id)) is not None:
        return _comparison(title, _percent(found), tr("perplexity"), [tr("pp_compare_paired")], tr)
    if row["tokens"] != base["tokens"]:
        interval = _log_ratio(row, base, "bits")
        return _comparison(title, _percent(interval), tr("pp_bits"), [tr("pp_compare_bits")], tr)
    interval = _log_ratio(row, base, "perplexity")
    return _comparison(title, _percent(interval), tr("perplexity"), [tr("pp_compare_unpaired")], tr)


def _log_ratio(row: Row, base: Row, figure: str) -> Interval:
    """Return the logarithm of the ratio of two figures, whose errors are taken as independent."""
    logs, variance, windows = list[float](), 0.0, list[float]()
    for one in (row, base):
        value, error = number_in(one, "Perplexity"), number_in(one, "se")
        if value is None or value <= 1:
            return Interval(math.nan, math.nan, math.nan)
        relative = math.nan if error is None else error / value
        if figure == "bits":
            bits = number_in(one, "bits_per_byte")
            logs.append(math.log(bits) if bits and bits > 0 else math.nan)
            relative /= math.log(value)  # of the mean loss, to which bits per byte are proportional
        else:
            logs.append(math.log(value))
        variance += relative**2
        windows.append(number_in(one, "windows") or 2)
    mean = logs[0] - logs[1]
    margin = t_quantile(max(int(min(windows)) - 1, 1)) * math.sqrt(variance)
    return Interval(mean, mean - margin, mean + margin)


def _percent(interval: Interval) -> Interval:
    """Return the change in percent of a logarithm of a ratio."""
    return Interval(*(100 * math.expm1(min(value, 700.0)) for value in (interval.mean, interval.low, interval.high)))


def _comparison(title: str, percent: Interval, figure: str, notes: Sequence[str], tr: Tr) -> str:
    if math.isnan(percent.mean):
        return _paragraphs(tr("pp_compare_no_figures"))
    row = IntervalRow(figure, percent.mean, percent.low, percent.high)
    if row.includes(0.0):
        words = tr("pp_no_difference")
    else:
        key = "pp_higher" if percent.mean > 0 else "pp_lower"
        words = tr(key).format(figure=figure, percent=number_text(abs(percent.mean), 3))
    drawing = interval_chart([row], Labels(title, words, x=tr("pc_axis"), unit="%"), tr)
    return drawing + _paragraphs(words, *notes)


def _paragraphs(*texts: str) -> str:
    first, *others = texts
    return f'<p class="tx-p-verdict">{escape(first)}</p>' + "".join(
        f'<p class="tx-s-info">{escape(text)}</p>' for text in others
    )
