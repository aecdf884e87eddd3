"""Charts: what is drawn, what is said to screen readers, and what text from outside may contain."""

from __future__ import annotations

import math
import re
from xml.etree import ElementTree

from modules.ui.charts import (
    MAX_POINTS,
    MAX_ROWS,
    IntervalRow,
    Labels,
    Series,
    interval_chart,
    line_chart,
    shortened,
    text_width,
)
from modules.ui.locales import translator

TR = translator("en")
LABELS = Labels("Loss of the run", "It falls from 3 to 1.", "updates", "loss")
LOSS = Series("Loss", [(1, 3.0), (2, 2.0), (3, 1.0)])


def drawings(html: str) -> list[ElementTree.Element]:
    """Return the drawings of a chart, whose HTML is well-formed XML."""
    return list(ElementTree.fromstring(html).iter("svg"))


def texts(drawing: ElementTree.Element) -> list[str]:
    return [element.text or "" for element in drawing.iter("text")]


def test_a_chart_is_drawn_for_phones_and_for_desktops() -> None:
    narrow, wide = drawings(line_chart([LOSS], LABELS, TR))
    assert narrow.get("viewBox") == "0 0 340 230"
    assert wide.get("viewBox") == "0 0 640 300"
    for drawing in (narrow, wide):
        assert {"1.0", "2.0", "3.0", "updates", "loss"} <= set(texts(drawing))


def test_screen_readers_get_a_name_a_description_and_the_figures() -> None:
    html = line_chart([LOSS], LABELS, TR)
    drawing = drawings(html)[0]
    assert drawing.get("role") == "img"
    assert drawing.get("aria-label") == "Loss of the run"
    assert drawing.findtext("title") == "Loss of the run"
    assert drawing.findtext("desc") == "It falls from 3 to 1."
    assert '<th scope="row">3</th><td>1</td>' in html


def test_a_line_goes_through_the_corners_of_its_axes() -> None:
    path = drawings(line_chart([LOSS], LABELS, TR))[0].findall("g/path")[-1].get("d")
    assert path == "M54.0 12.0L190.0 100.0L326.0 188.0"


def test_a_value_that_is_not_finite_interrupts_the_line_and_is_counted() -> None:
    points = [(1, 3.0), (2, math.nan), (3, 2.0), (4, 1.0)]
    html = line_chart([Series("Loss", points)], LABELS, TR)
    group = drawings(html)[0].find("g")
    assert group is not None
    assert len(group.findall("path")) == 1
    assert len(group.findall("circle")) == 1  # the first point has no neighbor
    assert "1 values cannot be drawn" in html
    assert "nan" not in html.lower()


def test_a_logarithmic_axis_leaves_zeros_out() -> None:
    html = line_chart([Series("Rate", [(1, 0.0), (2, 0.1), (3, 10.0)])], LABELS, TR, log=True)
    assert "Logarithmic vertical axis" in html
    assert "1 values cannot be drawn" in html


def test_a_chart_without_values_says_so() -> None:
    for series in ([], [Series("Loss", [])], [Series("Loss", [(1, math.nan)])]):
        html = line_chart(series, LABELS, TR)
        assert "No data yet." in html
        assert "<svg" not in html
    assert "No data yet." in interval_chart([], LABELS, TR)


def test_labels_are_escaped() -> None:
    labels = Labels("<b>\"&'", "<i>", "<x>", "<y>", "<u>")
    rows = [IntervalRow("<script>alert(1)</script>", 1.0, 0.5, 1.5)]
    for html in (line_chart([Series("<s>&", LOSS.points)], labels, TR), interval_chart(rows, labels, TR)):
        tags = {element.tag for element in ElementTree.fromstring(html).iter()}
        assert not tags & {"b", "x", "y", "u", "s", "script"}


def test_a_long_series_keeps_its_extremes_and_the_table_is_thinned_out() -> None:
    points = [(float(x), math.sin(x)) for x in range(20_000)]
    points[7_777] = (7_777.0, 50.0)
    html = line_chart([Series("Loss", points)], LABELS, TR)
    path = drawings(html)[0].findall("g/path")[-1].get("d") or ""
    assert path.count("L") <= MAX_POINTS + 2
    assert " 12.0L" in path  # the peak touches the top
    assert len(re.findall("<tr>", html)) <= MAX_ROWS + 2
    assert f"({MAX_ROWS + 1} / 20000)" in html
    assert '<th scope="row">19999</th>' in html


def test_a_long_series_without_values_for_a_while_has_a_gap() -> None:
    points = [(float(x), math.nan if 8_000 <= x < 12_000 else 1.0 + x) for x in range(20_000)]
    path = drawings(line_chart([Series("Loss", points)], LABELS, TR))[0].findall("g/path")[-1].get("d") or ""
    assert path.count("M") == 2 and path.count("L") <= MAX_POINTS


def test_a_band_is_drawn_between_its_ends() -> None:
    band = [(1, 2.0, 4.0), (3, 0.0, 2.0)]
    group = drawings(line_chart([Series("Mean", LOSS.points, band=band)], LABELS, TR))[0].find("g")
    assert group is not None
    assert group.findall("path")[0].get("class") == "tx-band"
    assert group.findall("path")[0].get("d") == "M54.0 12.0L326.0 100.0L326.0 188.0L54.0 100.0Z"


def test_every_series_has_its_color_and_its_mark_in_the_legend() -> None:
    raw = Series("Raw", LOSS.points, "faint", color=0)
    html = line_chart([raw, Series("Smoothed", LOSS.points, color=0), Series("Test", [(2, 2.5)], "dots")], LABELS, TR)
    assert '<li class="tx-color-0 tx-key-faint">' in html
    assert '<li class="tx-color-0 tx-key-line">' in html
    assert '<li class="tx-color-2 tx-key-dots">' in html


def test_an_interval_with_the_reference_inside_has_a_hollow_dot() -> None:
    rows = [IntervalRow("Memory", -40.0, -41.0, -39.0), IntervalRow("Speed", 0.2, -1.0, 1.4)]
    narrow, _ = drawings(interval_chart(rows, Labels("Price", unit="%"), TR))
    first, second = narrow.findall("g")
    assert "tx-hollow" not in (first.get("class") or "")
    assert "tx-hollow" in (second.get("class") or "")
    assert "−40 (−41 … −39) %" in texts(narrow)


def test_a_mean_without_interval_is_a_dot_alone() -> None:
    html = interval_chart([IntervalRow("One", 2.0), IntervalRow("None", math.nan)], LABELS, TR, reference=None)
    one, none = drawings(html)[0].findall("g")
    assert not one.findall("path")  # neither an interval nor a reference
    assert one.findall("circle")
    assert not none.findall("circle")


def test_an_interval_far_wider_than_the_others_is_cut_off_without_an_end() -> None:
    rows = [
        IntervalRow("Memory", -25.0, -26.0, -24.0),
        IntervalRow("Speed", -40.0, -75.0, 41.0),
        IntervalRow("Load", 15.0, -99.0, 206_543.0),
    ]
    html = interval_chart(rows, LABELS, TR)
    svg = drawings(html)[1]
    width = float(svg.attrib["viewBox"].split()[2])
    circles = [float(circle.attrib["cx"]) for circle in svg.iter("circle")]
    assert max(circles) - min(circles) > width / 20
    wide = [path.attrib["d"] for path in svg.findall("g")[2].findall("path")][-1]
    assert wide.count("v10") == 1 and "206543" in html
    within = interval_chart(rows[:2], LABELS, TR)
    assert all(group.findall("path")[-1].attrib["d"].count("v10") == 2 for group in drawings(within)[1].findall("g"))


def test_labels_are_cut_to_the_space_they_have() -> None:
    assert shortened("short", 100) == "short"
    for text in ("a" * 100, "\N{CJK UNIFIED IDEOGRAPH-6A21}" * 100):
        assert shortened(text, 120).endswith("…")
        assert text_width(shortened(text, 120)) <= 130
