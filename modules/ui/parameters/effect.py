"""The effect of the samplers: the chances of the next token at a position of the last reply, before and after them."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modules.chat.reasoning_markers import reasoning_markers
from modules.chat.reply_text import text_before
from modules.conversations.conversation import ChatMessage
from modules.conversations.store import ConversationStore
from modules.core.errors import OptionError, WebUIError
from modules.core.events import Json
from modules.core.prompt import PRIVATE, Prompt
from modules.runtime.loaded_model import LoadedModel
from modules.ui.gradio_import import gradio
from modules.ui.handlers import STALE_MENU, Options, Page, Updates, Values
from modules.ui.parameters.form import GRAMMAR, ParameterForm
from modules.ui.sent_values import mapping, sent_by, text_in
from modules.ui.widgets.option_form import Component

gr = gradio()

SHOWN = 20
"""Tokens in the panel."""
ASKED = 50
"""Tokens that the worker is asked for: one that is among the likely ones before, but not after, was cut."""

_BRIDGE = """
window.txEffect = (request) => trigger("submit", request);
watch("value", () => document.dispatchEvent(new CustomEvent("tx-effect", { detail: JSON.parse(props.value) })));
"""

_WORD = re.compile(r"\s*(?:[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]|[^\s\u3040-\u30ff\u3400-\u9fff\uac00-\ud7a3]+|$)")
"""A word with the blanks before it, as tokenizers cut texts; each Chinese, Japanese or Korean character is one."""


StoreOf = Callable[[Mapping[str, Any], str], ConversationStore]
"""Returns the conversations of whoever sent the request of a scope, those among which an id is: `Visitors.store`."""


class _Note(Exception):
    """Nothing to show, and why: a key of locales.py."""

    def __init__(self, key: str, **values: object) -> None:
        self.key, self.values = key, values


class EffectPanel:
    """Created inside the current Gradio container. The page's script draws it, and asks for chances by `bridge`."""

    def __init__(self, page: Page, store_of: StoreOf) -> None:
        self._page, self._app, self._store_of = page, page.app, store_of
        gr.HTML("<div data-effect></div>", elem_id="tx-effect-card", elem_classes="tx-card")
        self.bridge: Component = gr.HTML(
            "{}", html_template="<i></i>", js_on_load=_BRIDGE, elem_id="tx-effect-bridge", visible="hidden"
        )

    def listen(self, form: ParameterForm) -> None:
        """Attach the handler; the chances are those with the values of `form`."""
        self._form = form
        reads = set(form.widgets.values())
        # Gradio repeats the last one of several events without its data; the script sends one at a time.
        options: Options = {"queue": False, "trigger_mode": "multiple", **STALE_MENU}
        self._page.on(self.bridge.submit, self.ask, reads, [self.bridge], **options)

    def ask(self, values: Values, event: gr.EventData, request: gr.Request) -> Updates:  # type: ignore[name-defined]
        """Return the chances of the tokens that may come at a position of the conversation's last reply."""
        sent = sent_by(event)
        answer: dict[str, Json] = {"n": sent.get("n")}
        try:
            store = self._store_of(request.request.scope, text_in(sent.get("conversation")))
            answer |= self._look(store, sent, values)
        except _Note as note:
            answer["note"] = self._page.tr(note.key).format(**note.values)
        except OptionError:  # marked at its field
            answer["note"] = self._page.tr("effect_invalid")
        except WebUIError as error:
            answer["note"] = error.say(self._page.language)
        return {self.bridge: json.dumps(answer, ensure_ascii=False)}

    def _look(self, store: ConversationStore, sent: Mapping[str, Json], values: Values) -> dict[str, Json]:
        model = self._model()
        if self._app.runs.running(store):
            raise _Note("effect_busy")
        reply, prompt = _last_reply(store, text_in(sent.get("conversation")))
        words = split_words(reply.content)
        key = f"{reply.id} {len(reply.content)} {hash(reply.content)}"
        known = sent.get("known") == key
        at = position(sent.get("at"), len(words)) if known else 0
        params = dict(self._form.params(values, model.samplers))
        notes = []
        if params[GRAMMAR] and at:
            params[GRAMMAR] = ""  # it would begin anew in the middle of the reply
            notes.append(self._page.tr("effect_grammar"))
        if (writer := _model_name(reply)) not in ("", model.record.name):
            notes.append(self._page.tr("effect_other_model").format(model=writer))
        template = self._app.templates.of(model.record, model.info)
        markers, inside = reasoning_markers(self._app.templates, template, prompt)
        text = text_before(prompt, reply, len("".join(words[:at])), markers, inside)
        private = {} if store.is_kept else {PRIVATE: True}
        found = model.ask("next", prompt=Prompt(text).to_json(), params={**params, **private}, top=ASKED)
        rows = rows_of(found["plain"], found["sampled"], "".join(words[at:]))
        return {
            "key": key,
            "words": None if known else words,
            "at": at,
            "rows": rows,
            "notes": notes,
            "left": len(found["sampled"]) if len(found["sampled"]) < ASKED else None,
        }

    def _model(self) -> LoadedModel:
        if self._app.models.status.state != "ready":
            raise _Note("effect_no_model")
        model = self._app.models.current
        if "next" not in model.abilities:
            raise _Note("effect_unable", loader=model.engine_name)
        return model


def position(sent: Json, count: int) -> int:
    """Return the number of a word, or `count` for the end; 0 for anything that is no number."""
    return min(max(sent, 0), count) if type(sent) is int else 0


def split_words(text: str) -> list[str]:
    """Return the words of a text, each with the blanks before it; together they are the text."""
    return [word for word in _WORD.findall(text) if word]


def rows_of(plain: Sequence[Json], sampled: Sequence[Json], following: str) -> list[dict[str, Json]]:
    """Return the likeliest tokens with their chances before and after the samplers, and which one the reply has.

    `plain` and `sampled` are those of the worker's operation "next"; `following` is how the reply goes on.
    """
    before = {token: math.exp(logprob) for token, _, logprob in plain}
    after = {token: chance for token, _, chance in sampled}
    texts = {token: text for token, text, _ in (*plain, *sampled)}
    shown = sorted(texts, key=lambda token: -max(before.get(token, 0.0), after.get(token, 0.0)))[:SHOWN]
    said = [token for token in shown if texts[token] and following.startswith(texts[token])]
    longest = max(said, key=lambda token: len(texts[token]), default=None)
    return [
        {
            "id": token,
            "text": texts[token],
            "before": round(before.get(token, 0.0), 6),
            "after": round(after.get(token, 0.0), 6),
            "said": token == longest,
        }
        for token in shown
    ]


def _last_reply(store: ConversationStore, id: str) -> tuple[ChatMessage, str]:
    """Return the last reply of a conversation, and the prompt of its receipt."""
    if not id:
        raise _Note("effect_no_reply")
    replies = [message for message in store.read(id).path() if message.role == "assistant"]
    if not replies:
        raise _Note("effect_no_reply")
    receipt = mapping(replies[-1].receipt)
    try:
        prompt = store.blobs.get(text_in(receipt.get("prompt_sha256")))
    except KeyError:
        raise _Note("effect_no_receipt") from None
    return replies[-1], prompt.decode("utf-8", "replace")


def _model_name(reply: ChatMessage) -> str:
    """Return the model that has written a reply, as its receipt says."""
    return text_in(mapping(mapping(reply.receipt).get("model")).get("name"))
