"""The prompt of a sample conversation as HTML, and what went wrong. Everything from a template is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from modules.chat.errors import TemplateRefused
from modules.chat.template_preview import source_line
from modules.ui.locales import Tr
from modules.ui.widgets import messages

UNDO_CLICK = """element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-undo]");
  if (pressed) trigger("undo", { name: pressed.dataset.undo });
})"""

MOST_CHARACTERS = 100_000
"""Of a prompt that is shown."""


def preview(parts: Sequence[tuple[str, bool]], count: int | None, tr: Tr) -> str:
    """Render a prompt with its special tokens marked; `count` is the number of its tokens, None if not known."""
    shown, room = [], MOST_CHARACTERS
    for text, special in parts:
        text, room = text[:room], room - len(text)
        shown.append(f"<mark>{escape(text)}</mark>" if special else escape(text))
        if room < 0:
            shown.append("…")
            break
    facts = tr("template_not_counted") if count is None else tr("template_tokens").format(count=count)
    label = escape(tr("template_preview"))
    prompt = f'<pre tabindex="0" role="region" aria-label="{label}">{"".join(shown)}</pre>'
    return f'<p class="tx-template-facts">{escape(facts)}</p>{prompt}'


def refusal(error: TemplateRefused, source: str, tr: Tr) -> str:
    """Render why a template was refused, with the line of its source."""
    text, line = error.reason, source_line(source, error.line)
    if error.line:
        text = tr("template_line").format(line=error.line, reason=error.reason)
    code = f"<pre>{escape(line)}</pre>" if line else ""
    return f'<div class="tx-status tx-alert" role="status">{escape(text)}{code}</div>'


def deleted(name: str, models: Sequence[str], tr: Tr) -> str:
    """Render that a template was deleted, for which models it is still chosen, and a button that undoes it."""
    text = tr("template_deleted").format(name=name)
    if models:
        text += tr("template_still_used").format(models=tr("list_comma").join(models))
    button = f'<button type="button" class="tx-undo" data-undo="{escape(name)}">{escape(tr("undo"))}</button>'
    return f"{messages.info(text)}{button}"
