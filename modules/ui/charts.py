"""Charts as HTML: lines with bands, and means with intervals, drawn as SVG beside a table of the same figures.

Each chart is drawn twice, for phones and for wider columns, and charts.css shows the one that fits. Labels may be any
text: they are escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from modules.ui.chart_scale import Scale, fitted_scale, is_drawable, number_text, tick_texts
from modules.ui.locales import Tr

Style = Literal["line", "faint", "dots"]

COLORS = 6
"""How many colors charts.css has for series."""
MAX_POINTS = 400
"""Most points drawn of a series; of more, the extremes of short stretches are drawn."""
MAX_ROWS = 200
"""Most rows of a table of figures."""

_LEFT, _RIGHT, _TOP, _BOTTOM = 54, 14, 12, 42  # pixels around the plotted area
_ROW = 46  # height of a mean with its interval
_SIZES = (("narrow", 340, 230), ("wide", 640, 300))  # class, width and height


@dataclass(frozen=True)
class Series:
    """Points (x, y) with one name, in ascending order of x.

    "faint" is for raw values behind a smoothed line, "dots" for values that are not connected. `band` are (x, low,
    high). `color` counts from 0; by default every series has its own. Values that are not finite interrupt a line.
    """

    name: str
    points: Sequence[tuple[float, float]]
    style: Style = "line"
    band: Sequence[tuple[float, float, float]] = ()
    color: int | None = None


@dataclass(frozen=True)
class IntervalRow:
    """A mean with its interval, whose ends may be NaN. `text` is what is written at its end instead of the figures."""

    label: str
    mean: float
    low: float = math.nan
    high: float = math.nan
    text: str = ""

    def includes(self, value: float) -> bool:
        """Whether a value lies inside the interval, or there is no interval."""
        return not (self.low > value or self.high < value)


@dataclass(frozen=True)
class Labels:
    """The texts around a chart. `title` is its name for screen readers, `description` says what it shows.

    `x` and `y` are the names of the axes, `unit` is that of the means in a chart of intervals.
    """

    title: str
    description: str = ""
    x: str = ""
    y: str = ""
    unit: str = ""


def line_chart(series: Sequence[Series], labels: Labels, tr: Tr, log: bool = False, table: bool = True) -> str:
    """Render series over a common x axis, with a legend and a table. `log` gives a logarithmic y axis.

    Without a value that can be drawn, the result says that there is no data yet.
    """
    if not any(is_drawable(x) and is_drawable(y, log) for one in series for x, y in one.points):
        return _figure(labels, f'<p class="tx-chart-empty">{escape(tr("chart_empty"))}</p>', "", "")
    drawings = "".join(_line_svg(series, labels, log, *size) for size in _SIZES)
    notes = [tr("chart_log")] if log else []
    missing = sum(not is_drawable(y, log) for one in series for _, y in one.points)
    if missing:
        notes.append(tr("chart_missing").format(count=missing))
    return _figure(labels, drawings, _legend(series, notes), series_table(series, labels, tr) if table else "")


def interval_chart(
    rows: Sequence[IntervalRow], labels: Labels, tr: Tr, reference: float | None = 0.0, table: bool = True
) -> str:
    """Render means with their intervals on a common axis. A row whose interval includes `reference` has a hollow dot.

    None is for values without one, such as perplexities.
    """
    if not any(is_drawable(row.mean) for row in rows):
        return _figure(labels, f'<p class="tx-chart-empty">{escape(tr("chart_empty"))}</p>', "", "")
    drawings = "".join(_interval_svg(rows, labels, reference, name, width) for name, width, _ in _SIZES)
    return _figure(labels, drawings, "", interval_table(rows, labels, tr) if table else "")


# -- tables -----------------------------------------------------------------------------------------------------------


def series_table(series: Sequence[Series], labels: Labels, tr: Tr) -> str:
    """Render the figures of series as a table that can be opened: one row for every x, evenly thinned out if many."""
    columns = [dict(one.points) for one in series]
    xs = sorted({x for column in columns for x in column})
    step = max(1, math.ceil(len(xs) / MAX_ROWS))
    shown = [*xs[:-1:step], *xs[-1:]]
    rows = [[number_text(x, 7), *(_cell(column, x) for column in columns)] for x in shown]
    summary = tr("chart_figures") + (f" ({len(shown)} / {len(xs)})" if len(shown) < len(xs) else "")
    return _table(summary, labels, [labels.x, *(one.name for one in series)], rows)


def interval_table(rows: Sequence[IntervalRow], labels: Labels, tr: Tr) -> str:
    """Render means with their intervals as a table that can be opened."""
    unit = f" ({labels.unit})" if labels.unit else ""
    heads = ["", tr("chart_mean") + unit, tr("chart_low"), tr("chart_high")]
    cells = [[row.label, *(number_text(value) for value in (row.mean, row.low, row.high))] for row in rows]
    return _table(tr("chart_figures"), labels, heads, cells)


def _cell(column: dict[float, float], x: float) -> str:
    return number_text(column[x]) if x in column else ""


def _table(summary: str, labels: Labels, heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f'<th scope="col">{escape(text)}</th>' if text else "<td></td>" for text in heads)
    body = "".join(
        "<tr>" + "".join(_table_cell(number, text) for number, text in enumerate(row)) + "</tr>" for row in rows
    )
    return (
        f'<details class="tx-chart-table"><summary>{escape(summary)}</summary><div tabindex="0" role="region" '
        f'aria-label="{escape(labels.title)}"><table><caption class="tx-unseen">{escape(labels.title)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div></details>"
    )


def _table_cell(number: int, text: str) -> str:
    return f"<td>{escape(text)}</td>" if number else f'<th scope="row">{escape(text)}</th>'


# -- the figure around a drawing --------------------------------------------------------------------------------------


def _figure(labels: Labels, drawings: str, legend: str, table: str) -> str:
    return (
        f'<figure class="tx-chart"><figcaption>{escape(labels.title)}</figcaption>'
        f'<div class="tx-chart-drawing">{drawings}</div>{legend}{table}</figure>'
    )


def _legend(series: Sequence[Series], notes: Sequence[str]) -> str:
    items = [
        f'<li class="{_color(one, number)} tx-key-{one.style}"><i></i>{escape(one.name)}</li>'
        for number, one in enumerate(series)
        if one.name
    ]
    items += [f'<li class="tx-chart-note">{escape(note)}</li>' for note in notes]
    return f'<ul class="tx-chart-legend">{"".join(items)}</ul>' if items else ""


def _color(series: Series, number: int) -> str:
    return f"tx-color-{(number if series.color is None else series.color) % COLORS}"


def _svg(name: str, width: int, height: int, labels: Labels, content: str) -> str:
    description = f"<desc>{escape(labels.description)}</desc>" if labels.description else ""
    return (
        f'<svg class="tx-chart-{name}" viewBox="0 0 {width} {height}" role="img" aria-label="{escape(labels.title)}">'
        f"<title>{escape(labels.title)}</title>{description}{content}</svg>"
    )


# -- lines ------------------------------------------------------------------------------------------------------------


def _line_svg(series: Sequence[Series], labels: Labels, log: bool, name: str, width: int, height: int) -> str:
    edges = [y for one in series for _, low, high in one.band for y in (low, high)]
    x_axis = fitted_scale((x for one in series for x, _ in one.points), _LEFT, width - _RIGHT)
    values = [y for one in series for _, y in one.points]
    y_axis = fitted_scale([*values, *edges], height - _BOTTOM, _TOP, log)
    marks = "".join(_series_marks(one, number, x_axis, y_axis) for number, one in enumerate(series))
    return _svg(name, width, height, labels, _axes(x_axis, y_axis, labels, width, height) + marks)


def _axes(x_axis: Scale, y_axis: Scale, labels: Labels, width: int, height: int) -> str:
    bottom, right = height - _BOTTOM, width - _RIGHT
    parts = [f'<path class="tx-axis" d="M{_LEFT} {bottom}H{right}"/>']
    ticks = y_axis.ticks(5)
    for value, text in zip(ticks, tick_texts(ticks), strict=True):
        y = y_axis.pixel(value)
        parts.append(f'<path class="tx-grid" d="M{_LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{text}</text>')
    parts += _x_ticks(x_axis, width, bottom)
    parts.append(f'<text x="{right}" y="{height - 6}" text-anchor="end">{escape(labels.x)}</text>')
    parts.append(f'<text class="tx-axis-name" x="{_LEFT}" y="{height - 6}">{escape(labels.y)}</text>')
    return "".join(parts)


def _x_ticks(axis: Scale, width: int, bottom: float) -> Iterator[str]:
    ticks = axis.ticks(max(3, width // 90))
    for value, text in zip(ticks, tick_texts(ticks), strict=True):
        x = axis.pixel(value)
        anchor = "end" if x > width - _RIGHT - 14 else "middle"
        yield f'<path class="tx-axis" d="M{x:.1f} {bottom}v4"/>'
        yield f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="{anchor}">{text}</text>'


def _series_marks(series: Series, number: int, x_axis: Scale, y_axis: Scale) -> str:
    color, parts = _color(series, number), []
    if series.band:
        parts.append(_band(series.band, x_axis, y_axis))
    points = _thinned(series.points)
    if series.style == "dots":
        for x, y in points:
            if _inside(x, y, y_axis):
                parts.append(f'<circle cx="{x_axis.pixel(x):.1f}" cy="{y_axis.pixel(y):.1f}" r="3.5"/>')
    else:
        parts += _line(points, x_axis, y_axis)
    return f'<g class="{color} tx-{series.style}">{"".join(parts)}</g>'


def _line(points: Sequence[tuple[float, float]], x_axis: Scale, y_axis: Scale) -> Iterator[str]:
    """Yield one path, and a dot for every point that has no neighbor to be connected with."""
    stretches: list[list[str]] = [[]]
    for x, y in points:
        if _inside(x, y, y_axis):
            stretches[-1].append(f"{x_axis.pixel(x):.1f} {y_axis.pixel(y):.1f}")
        elif stretches[-1]:
            stretches.append([])
    paths = ["M" + "L".join(stretch) for stretch in stretches if len(stretch) > 1]
    if paths:
        yield f'<path d="{"".join(paths)}"/>'
    for stretch in stretches:
        if len(stretch) == 1:
            x_text, y_text = stretch[0].split()
            yield f'<circle cx="{x_text}" cy="{y_text}" r="2.5"/>'


def _band(band: Sequence[tuple[float, float, float]], x_axis: Scale, y_axis: Scale) -> str:
    """Return the area between the lower and upper ends that can be drawn."""
    inside = (edge for edge in band if x_axis.low <= edge[0] <= x_axis.high)
    usable = [(x, low, high) for x, low, high in inside if _inside(x, low, y_axis) and _inside(x, high, y_axis)]
    upper = [f"{x_axis.pixel(x):.1f} {y_axis.pixel(high):.1f}" for x, _, high in usable]
    lower = [f"{x_axis.pixel(x):.1f} {y_axis.pixel(low):.1f}" for x, low, _ in reversed(usable)]
    return f'<path class="tx-band" d="M{"L".join([*upper, *lower])}Z"/>' if usable else ""


def _inside(x: float, y: float, y_axis: Scale) -> bool:
    return is_drawable(x) and is_drawable(y, y_axis.log)


def _thinned(points: Sequence[tuple[float, float]]) -> Sequence[tuple[float, float]]:
    """Return at most about MAX_POINTS points: of every stretch the lowest and the highest, in their order."""
    if len(points) <= MAX_POINTS:
        return points
    size = math.ceil(len(points) / (MAX_POINTS // 2))
    kept: list[tuple[float, float]] = []
    for begin in range(0, len(points), size):
        stretch = [point for point in points[begin : begin + size] if math.isfinite(point[1])]
        if not stretch:
            kept.append(points[begin])
            continue
        ends = {min(stretch, key=lambda point: point[1]), max(stretch, key=lambda point: point[1])}
        kept += sorted(ends)
    return kept


# -- means with intervals ---------------------------------------------------------------------------------------------


def _interval_svg(rows: Sequence[IntervalRow], labels: Labels, reference: float | None, name: str, width: int) -> str:
    height = _TOP + _ROW * len(rows) + _BOTTOM
    axis = _padded(fitted_scale(_shown_ends(rows, reference), 16, width - 16))
    bottom = height - _BOTTOM
    parts = [f'<path class="tx-axis" d="M16 {bottom}H{width - 16}"/>', *_x_ticks(axis, width, bottom)]
    parts.append(f'<text x="{width - 16}" y="{height - 6}" text-anchor="end">{escape(labels.x)}</text>')
    for number, row in enumerate(rows):
        parts.append(_interval_marks(row, number, axis, reference, width, labels.unit))
    return _svg(name, width, height, labels, "".join(parts))


def _shown_ends(rows: Sequence[IntervalRow], reference: float | None) -> list[float]:
    """Return the values between which intervals are drawn.

    An interval that is far wider than most, as of two measurements, is cut off: nothing could be seen of the others.
    """
    means = [row.mean for row in rows if is_drawable(row.mean)] + ([] if reference is None else [reference])
    ends = [end for row in rows for end in (row.low, row.high) if is_drawable(end)]
    if not means or not ends:
        return [*means, *ends]
    halves = sorted((row.high - row.low) / 2 for row in rows if is_drawable(row.low) and is_drawable(row.high))
    margin = max(3 * halves[(len(halves) - 1) // 2] if halves else 0.0, 2 * (max(means) - min(means)))
    low, high = min(means) - margin, max(means) + margin
    return [*means, *(min(max(end, low), high) for end in ends)]


def _padded(scale: Scale) -> Scale:
    margin = (scale.high - scale.low) * 0.04
    return Scale(scale.low - margin, scale.high + margin, scale.start, scale.end)


def _interval_marks(row: IntervalRow, number: int, axis: Scale, reference: float | None, width: int, unit: str) -> str:
    top = _TOP + _ROW * number
    y = top + 30
    figures = row.text or interval_text(row, unit)
    label = shortened(row.label, width - 40 - text_width(figures))
    parts = [
        f'<text class="tx-row-name" x="16" y="{top + 14}">{escape(label)}</text>',
        f'<text x="{width - 16}" y="{top + 14}" text-anchor="end">{escape(figures)}</text>',
    ]
    if reference is not None:
        parts.append(f'<path class="tx-reference" d="M{axis.pixel(reference):.1f} {top + 19}v22"/>')
    if is_drawable(row.low) and is_drawable(row.high):
        low, high = axis.pixel(max(row.low, axis.low)), axis.pixel(min(row.high, axis.high))
        first = f"M{low:.1f} {y - 5}v10" if row.low >= axis.low else ""  # no end where it is cut off
        last = f"M{high:.1f} {y - 5}v10" if row.high <= axis.high else ""
        parts.append(f'<path d="{first}M{low:.1f} {y}H{high:.1f}{last}"/>')
    if is_drawable(row.mean):
        parts.append(f'<circle cx="{axis.pixel(row.mean):.1f}" cy="{y}" r="5"/>')
    hollow = " tx-hollow" if reference is not None and row.includes(reference) else ""
    title = f"<title>{escape(row.label)}: {escape(figures)}</title>"
    return f'<g class="tx-color-0 tx-interval{hollow}">{title}{"".join(parts)}</g>'


def interval_text(row: IntervalRow, unit: str = "") -> str:
    """Return a mean with its interval, such as "1.2 (0.8 … 1.6) %"."""
    ends = "" if math.isnan(row.low) else f" ({number_text(row.low, 3)} … {number_text(row.high, 3)})"
    return f"{number_text(row.mean, 3)}{ends}{f' {unit}' if unit else ''}"


def text_width(text: str) -> float:
    """Return about how many pixels wide a text is at 12 px: Chinese characters are as wide as high."""
    return sum(12.0 if ord(character) > 0x2E7F else 6.6 for character in text)


def shortened(text: str, pixels: float) -> str:
    """Return a text that is about `pixels` wide at most, with an ellipsis where it is cut."""
    if text_width(text) <= pixels:
        return text
    while text and text_width(text) + 12 > pixels:
        text = text[:-1]
    return text + "…"
