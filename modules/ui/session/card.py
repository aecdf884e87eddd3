"""Parts that the cards of the Session page share: the component, and pieces of their HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from modules.ui.gradio_import import gradio
from modules.ui.sent_values import mapping, sent_by, text_in
from modules.ui.widgets.option_form import Component

gr = gradio()

_SCRIPT = """const events = %s;
document.dispatchEvent(new CustomEvent("tx-session-card", {
  detail: { element, value: () => props.value, watch, trigger, events },
}));"""

OPENED = "<i hidden data-opened></i>"
"""Stands before a card that is shown because its page was opened: what has been typed into it stays."""


def card(name: str, *events: str) -> Component:
    """Return a card, whose value is the HTML that it shows and that static/session_card.js reads.

    It emits `events`: Gradio knows the events of a component by the literals in its script.
    """
    return gr.HTML(
        "",
        html_template='<div class="tx-s"></div><div class="tx-unseen tx-s-said" role="status"></div>',
        elem_id=f"tx-s-{name}",
        elem_classes=["tx-card"],
        js_on_load=_SCRIPT % json.dumps(events),
        apply_default_css=False,
    )


def heading(title: str, info: str = "") -> str:
    """Render the title of a card, and a sentence below it."""
    below = f'<p class="tx-s-info">{escape(info)}</p>' if info else ""
    return f"<h2>{escape(title)}</h2>{below}"


def button(label: str, event: str, *, style: str = "", **attributes: object) -> str:
    """Render a button that triggers `event`; underscores in the names of `attributes` become dashes.

    `style` is "main" or "danger". An attribute that is True has no value; one that is False is left out.
    """
    classes = f"tx-button tx-{style}" if style else "tx-button"
    act = f' data-do="{escape(event, quote=True)}"' if event else ""
    return f'<button type="button" class="{classes}"{act}{_attributes(attributes)}>{escape(label)}</button>'


def tagged(tag: str, text: str, classes: str = "") -> str:
    """Render an element that contains only text."""
    attribute = f' class="{classes}"' if classes else ""
    return f"<{tag}{attribute}>{escape(text)}</{tag}>"


def fold(name: str, title: str, body: str, note: str = "", opened: bool = False) -> str:
    """Render a fold with the id tx-s-`name`, whose title is followed by a `note`."""
    below = " " + tagged("span", note, "tx-s-quiet") if note else ""
    state = " open" if opened else ""
    head = f"<summary>{escape(title)}{below}</summary>"
    return f'<details data-group id="tx-s-{escape(name, quote=True)}"{state}>{head}{body}</details>'


def _attributes(attributes: dict[str, object]) -> str:
    shown = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items() if value is not False}
    return "".join(
        f" {name}" if value is True else f' {name}="{escape(str(value), quote=True)}"' for name, value in shown.items()
    )


def sent_text(event: Any, key: str) -> str:
    """Return a text of the data of an event, else ""."""
    return text_in(sent_by(event).get(key))


def sent_fields(event: Any) -> Mapping[str, object]:
    """Return the fields of the form that was sent with an event, by name."""
    return mapping(sent_by(event).get("fields"))
