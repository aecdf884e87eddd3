"""Search the hub for GGUF repositories by name, where its endpoint offers that."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from html import escape

from modules.hub.endpoint_url import host_of
from modules.hub.search import FoundRepository
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates
from modules.ui.locales import Tr
from modules.ui.sent_values import sent_by
from modules.ui.widgets.option_form import Component

gr = gradio()

_SCRIPT = """element.addEventListener("click", (event) => {
  const pressed = event.target.closest("[data-repo]");
  if (pressed) trigger("choose", { repo: pressed.dataset.repo });
});"""


class HubSearch:
    """A search field and its results, created inside the current Gradio container. `results` emits "choose"."""

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app
        tr, owner = page.tr, page.owner
        with gr.Row(elem_classes="tx-row tx-hub-fields"):
            self.text: Component = gr.Textbox(
                interactive=owner,
                label=tr("hub_search"),
                placeholder=tr("hub_example"),
                max_lines=1,
                scale=3,
                min_width=240,
                elem_id="tx-hub-text",
            )
            self.button: Component = gr.Button(
                tr("hub_button"), interactive=owner, elem_id="tx-hub-search", scale=0, min_width=110
            )
        self.results: Component = gr.HTML("", elem_id="tx-hub-results", js_on_load=_SCRIPT, apply_default_css=False)
        for event in (self.text.submit, self.button.click):
            page.on(
                event,
                self.search,
                [self.text],
                [self.results],
                alert=self.results,
                owner_only=True,
                trigger_mode="always_last",
                concurrency_limit=None,
            )

    async def search(self, text: object) -> AsyncIterator[Updates]:
        """Show the repositories that the hub finds; nothing for an empty text."""
        words = text.strip() if isinstance(text, str) else ""
        if not words:
            yield {self.results: ""}
            return
        yield {self.results: self._page.info("dl_asking", host=host_of(self._app.mirrors.endpoints[0]))}
        found = await asyncio.to_thread(self._app.mirrors.search, words)
        yield {self.results: results(found, self._page.tr)}

    def chosen(self, event: gr.EventData) -> str:  # type: ignore[name-defined]
        """Return the repository whose result was pressed. Raises BadAddress."""
        return self._app.mirrors.parse_address(str(sent_by(event).get("repo", ""))).repo


def results(found: Sequence[FoundRepository], tr: Tr) -> str:
    """Render the repositories found, one button each."""
    if not found:
        return f'<p class="tx-status" role="status">{escape(tr("hub_nothing"))}</p>'
    rows = "".join(f"<li>{_result(repository, tr)}</li>" for repository in found)
    return f'<ul class="tx-hub-list" aria-label="{escape(tr("hub_results"), quote=True)}">{rows}</ul>'


def _result(found: FoundRepository, tr: Tr) -> str:
    facts = [
        _parameters(found.parameters),
        tr("context").format(count=found.context_length) if found.context_length else "",
        tr("hub_downloads").format(count=_short(found.downloads)),
        tr("hub_likes").format(count=_short(found.likes)),
        tr("hub_updated").format(date=found.updated) if found.updated else "",
        tr("hub_gated") if found.gated else "",
    ]
    shown = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    name = escape(found.name, quote=True)
    return f'<button type="button" data-repo="{name}"><b>{name}</b><span class="tx-hub-facts">{shown}</span></button>'


def _parameters(count: int) -> str:
    if count >= 10**9:
        return f"{count / 10**9:.1f}B"
    return f"{count / 10**6:.0f}M" if count else ""


def _short(count: int) -> str:
    """Return a count with at most four characters: "950", "12k", "3.4M"."""
    if count >= 10**6:
        return f"{count // 10**5 / 10}M" if count < 10**7 else f"{count // 10**6}M"
    return f"{count // 1000}k" if count >= 10_000 else f"{count // 100 / 10}k" if count >= 1000 else str(count)
