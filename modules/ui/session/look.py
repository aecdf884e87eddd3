"""The look of this browser: theme, size of the text and language, which are applied at once."""

from __future__ import annotations

from html import escape

from modules.config.settings import AUTO, INTERFACE
from modules.core.errors import LANGUAGES
from modules.ui.handlers import Page
from modules.ui.session.card import heading

_LANGUAGE_NAMES = {"zh": "中文", "en": "English"}


def look(page: Page, switched: str) -> str:
    """Render the choices. `switched` is the language that the browser has switched to, "" if none."""
    tr = page.tr
    language = switched if switched in LANGUAGES else AUTO
    return (
        heading(tr("ss_look"), tr("ss_look_info"))
        + _choice(page, "theme", "theme")
        + _choice(page, "text", "font_size")
        + '<fieldset class="tx-s-choice"><legend>'
        + escape(INTERFACE["language"].label[page.language])
        + "</legend><div>"
        + "".join(
            _radio("language", value, _LANGUAGE_NAMES.get(value) or tr("ss_auto"), _language(value, language))
            for value in (AUTO, *LANGUAGES)
        )
        + "</div></fieldset>"
    )


def _choice(page: Page, name: str, key: str) -> str:
    """Render the choices of an option that the browser keeps as `name`."""
    option, tr = INTERFACE[key], page.tr
    radios = (_radio(name, str(value), tr(f"ss_{value}"), f'data-look="{name}"') for value in option.choices)
    legend = escape(option.label[page.language])
    return f'<fieldset class="tx-s-choice"><legend>{legend}</legend><div>{"".join(radios)}</div></fieldset>'


def _radio(name: str, value: str, label: str, attributes: str) -> str:
    return (
        f'<label><input type="radio" name="tx-look-{name}" value="{value}" {attributes}>'
        f"<span>{escape(label)}</span></label>"
    )


def _language(value: str, chosen: str) -> str:
    checked = " checked" if value == chosen else ""
    return f'data-go="/language/{value}#session"{checked}'
