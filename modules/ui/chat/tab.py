"""The Chat page: the place where the page's script draws the conversation, and the event by which it asks for answers.

Conversations are kept by the server, which writes the answers whether or not a page is open: see `chat.runs`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

from modules.chat.participants import INSTRUCT
from modules.chat.pictures import refuse_pictures
from modules.chat.receipt import parameters_again, template_kwargs_again
from modules.chat.run import ReplyRequest
from modules.conversations.store import ConversationStore
from modules.core.errors import NoModelLoaded, OptionError, WebUIError, Words
from modules.core.events import Json
from modules.core.worker_errors import WorkerDied
from modules.loaders.registry import find_loader
from modules.runtime.loaded_model import GENERATE, LoadedModel
from modules.runtime.model_source import page_model
from modules.ui.chat.bodies import MAX_TEXT, checked_template_kwargs
from modules.ui.chat.uploads import Uploads
from modules.ui.chat.visitors import Visitors
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Page, Updates, Values
from modules.ui.model.first_run import FirstRun
from modules.ui.parameters.tab import ParametersTab
from modules.ui.preparation_notice import PreparationNotice, greeting_html
from modules.ui.sent_values import sent_by, text_in
from modules.ui.widgets.option_form import Component

gr = gradio()

ACTIONS = ("send", "edit", "regenerate", "continue", "again", "impersonate")
TEXTS = ("text", "start_with", "system")
NEW_KEYS = ("mode", "character", "persona", "system")
"""Fields that the script may send for a conversation that does not exist yet."""

_TEXT: Words = {"en": f"at most {MAX_TEXT:,} characters", "zh": f"最多 {MAX_TEXT:,} 个字符"}
_BRIDGE = """
window.txAsk = (request) => trigger("submit", request);
watch("value", () => document.dispatchEvent(new CustomEvent("tx-answer", { detail: JSON.parse(props.value) })));
"""


class ChatTab:
    """Created inside a `gr.Tab`. The page's script asks for answers through `bridge`, and gets a reply in its value."""

    def __init__(self, page: Page, visitors: Visitors) -> None:
        self._page, self._app, self._visitors = page, page.app, visitors
        self.notice = PreparationNotice(page, "tx-chat-prepare")
        self.greeting: Component = gr.HTML(greeting_html(page), elem_id="tx-greeting", elem_classes="tx-when-empty")
        self.first_run = FirstRun(page, "tx-chat-first", offers_load=True)
        gr.HTML(self._place(), elem_id="tx-chat-root")
        self.bridge: Component = gr.HTML(
            "{}", html_template="<i></i>", js_on_load=_BRIDGE, elem_id="tx-bridge", visible="hidden"
        )

    def _place(self) -> str:
        """Render the element into which the page's script draws the chat, with what new conversations begin with."""
        settings = self._app.settings.current
        character = settings.character if settings.mode != INSTRUCT else ""
        return (
            f'<div data-chat data-mode="{escape(settings.mode)}" data-character="{escape(character)}" '
            f'data-start-with="{escape(settings.start_with)}"></div>'
        )

    def build_system_message(self) -> None:
        """Create the field of the conversation's system message; the page's script fills it and stores changes."""
        tr, default = self._page.tr, self._app.settings.current.system_message
        label = f'<label for="tx-system">{escape(tr("system_message"))}</label><p>{escape(tr("system_info"))}</p>'
        field = f'<textarea id="tx-system" rows="3" data-default="{escape(default)}">{escape(default)}</textarea>'
        gr.HTML(label + field, elem_id="tx-system-card", elem_classes="tx-card")

    def listen(self, parameters: ParametersTab) -> None:
        """Attach the handlers, once all tabs exist: answers are generated with the `parameters` of that tab."""
        self._parameters = parameters
        reads = set(parameters.widgets.values())
        self._page.on(self.bridge.submit, self.ask, reads, [self.bridge], queue=False, trigger_mode="multiple")

    def refresh(self, shown_notice: object) -> Updates:
        """Show what the preparation has changed since the page showed the notice `shown_notice`."""
        changed = self.notice.update(shown_notice)
        if changed[self.notice.part] == gr.skip():
            return changed
        return changed | {self.greeting: greeting_html(self._page)}

    def ask(self, values: Values, event: gr.EventData, request: gr.Request) -> Updates:  # type: ignore[name-defined]
        """Begin to write the answer that the page's script asks for. What cannot be answered changes nothing."""
        sent = sent_by(event)
        answer: dict[str, Json] = {"n": sent.get("n"), "sent": sent.get("action") == "send"}
        try:
            answer["id"] = self._start(request.request.scope, sent, values)
        except WebUIError as error:
            answer["error"] = self._page.alert(error)
            if isinstance(error, NoModelLoaded | WorkerDied) and self._page.owner:
                answer["load"] = self._app.default_model()
        return {self.bridge: json.dumps(answer)}

    def _start(self, scope: Mapping[str, Any], sent: Mapping[str, Json], values: Values) -> str:
        model, id = page_model(self._app.models), text_in(sent.get("conversation"))
        store, uploads = self._visitors.store(scope, id), self._visitors.uploads(scope)
        source = model if isinstance(model, LoadedModel) else find_loader(self._app.models.status.loader)
        samplers = source.samplers
        request = self._request(store, uploads, sent, values, samplers)
        if isinstance(model, LoadedModel):  # else the run checks this when it has woken the model
            model.require(GENERATE)
            refuse_pictures(model, request.attachments)
        new = None if id else self._app.setup.new(*(_text_or_none(sent, key) for key in NEW_KEYS))
        return self._app.runs.start(store, id, request, model, new).conversation

    def _request(
        self,
        store: ConversationStore,
        uploads: Uploads,
        sent: Mapping[str, Json],
        values: Values,
        samplers: frozenset[str],
    ) -> ReplyRequest:
        """Return what the script asks for. Whatever a hand-made request sent is checked here or by the run."""
        action, message, seen = text_in(sent.get("action")), text_in(sent.get("message")), sent.get("rev")
        if action not in ACTIONS:
            raise OptionError(
                "action", action, {"en": f"one of {', '.join(ACTIONS)}", "zh": f"{'、'.join(ACTIONS)} 之一"}
            )
        for key in TEXTS:
            if len(text := text_in(sent.get(key))) > MAX_TEXT:
                raise OptionError(key, f"{text[:20]}…", _TEXT)
        params = self._parameters.params(values, samplers)
        template_kwargs = checked_template_kwargs(sent.get("template_kwargs"))
        if action == "again":
            action, slip = "regenerate", store.read(text_in(sent.get("conversation"))).message(message).receipt
            params = {**params, **parameters_again(slip)}
            template_kwargs = template_kwargs_again(slip)
        return ReplyRequest(
            action,
            params,
            text=text_in(sent.get("text")),
            message=message,
            attachments=uploads.of_message(_files(sent.get("attachments"))),
            start_with=text_in(sent.get("start_with")),
            seen=seen if isinstance(seen, int) else None,
            template_kwargs=template_kwargs,
        )


def _files(sent: Json) -> list[tuple[str, str]]:
    """Return the hashes and names of the files that the script says were uploaded before."""
    files = [item for item in sent if isinstance(item, dict)] if isinstance(sent, list) else []
    return [(text_in(item.get("sha256")), text_in(item.get("name"))) for item in files]


def _text_or_none(sent: Mapping[str, Json], key: str) -> str | None:
    return text_in(sent.get(key)) if isinstance(sent.get(key), str) else None
