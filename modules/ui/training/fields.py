"""Options as the page's scripts draw them."""

from __future__ import annotations

from modules.core.events import Json
from modules.options.option import Option


def field_json(option: Option, language: str) -> dict[str, Json]:
    """Return an option with its texts in one language."""
    return {
        "key": option.key,
        "label": option.label[language],
        "help": option.help[language],
        "default": option.default,
        "choices": list(option.choices),
        "minimum": option.minimum,
        "maximum": option.maximum,
    }
