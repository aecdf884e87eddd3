"""Colors of messages: legible in both themes (WCAG AA)."""

from __future__ import annotations

import re

import pytest

from modules.ui.chat.code import CLASSES
from modules.ui.static_files import FOLDER

CSS = (FOLDER / "transcript_markdown.css").read_text()
CONTRAST = 4.5
MARKDOWN = ":is(#tx-chat, #tx-notebook) .tx-md"


def colors(selector: str) -> dict[str, str]:
    rules = re.search(rf"^{re.escape(selector)} {{(.*?)^}}", CSS, re.DOTALL | re.MULTILINE)
    assert rules
    return dict(re.findall(r"--tx-md-([\w-]+): (#[0-9a-f]{6});", rules[1]))


def luminance(color: str) -> float:
    channels = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(first: str, second: str) -> float:
    darker, lighter = sorted((luminance(first), luminance(second)))
    return (lighter + 0.05) / (darker + 0.05)


def test_every_color_of_code_is_legible_in_both_themes(subtests: pytest.Subtests) -> None:
    for selector in (MARKDOWN, f".dark {MARKDOWN}"):
        found = colors(selector)
        for name in {*CLASSES.values()}:
            with subtests.test(selector=selector, name=name):
                assert contrast(found[f"tok-{name}"], found["code"]) >= CONTRAST
                assert f"{MARKDOWN} .tx-{name} {{ color: var(--tx-md-tok-{name})" in CSS


def test_text_is_legible_on_its_backgrounds(subtests: pytest.Subtests) -> None:
    for selector, page in ((MARKDOWN, "#ffffff"), (f".dark {MARKDOWN}", "#1f2937")):
        found = colors(selector)
        for front, back in (
            *(("text", "code"), ("text", "inline"), ("text", "head"), ("faint", "head"), ("link", "code")),
            *((name, page) for name in ("text", "faint", "link")),
        ):
            with subtests.test(selector=selector, front=front, back=back):
                assert contrast(found[front], found.get(back, back)) >= CONTRAST


def test_both_themes_name_the_same_colors() -> None:
    assert colors(MARKDOWN).keys() == colors(f".dark {MARKDOWN}").keys()
