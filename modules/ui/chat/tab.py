"""The Chat tab: a conversation with the loaded model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from functools import partial

from modules.chat.message import Message
from modules.chat.prompt import conversation_prompt
from modules.core.errors import WebUIError
from modules.core.events import Done, Json, Progress, Text, Waiting
from modules.runtime.loaded_model import LoadedModel
from modules.ui.gradio_import import gradio
from modules.ui.handlers import Options, Page, Updates, Values
from modules.ui.parameters.tab import ParametersTab
from modules.ui.preparation_notice import PreparationNotice, greeting
from modules.ui.widgets import messages
from modules.ui.widgets.option_form import Component

gr = gradio()

History = list[dict[str, str]]
"""The messages of a conversation, each with a "role" (user or assistant) and a plain "content"."""

FLUSH_SECONDS = 0.08
"""The browser redraws the whole conversation at each update, and would fall behind with one per token."""


class ChatTab:
    """Created inside a `gr.Tab`. The conversation lives in the browser; every handler receives all of it."""

    def __init__(self, page: Page) -> None:
        self._page, self._app = page, page.app
        self.notice = PreparationNotice(page, "tx-chat-prepare")
        self._build_conversation()
        self._build_input()

    def _build_conversation(self) -> None:
        self.chatbot: Component = gr.Chatbot(
            elem_id="tx-chat",
            show_label=False,
            height="calc(100dvh - 372px)",
            min_height=260,
            editable="all",
            buttons=["copy"],
            reasoning_tags=[("<think>", "</think>")],
            latex_delimiters=[{"left": "$$", "right": "$$", "display": True}],
            placeholder=self._page.tr(greeting(self._app)),
            layout="bubble",
        )
        self.line: Component = gr.HTML("", elem_id="tx-chat-line")

    def _build_input(self) -> None:
        tr = self._page.tr
        with gr.Row(elem_classes="tx-row"):
            self.text: Component = gr.Textbox(
                label=tr("message"),
                show_label=False,
                container=False,
                placeholder=tr("write"),
                lines=1,
                max_lines=8,
                scale=8,
                elem_id="tx-text",
                autofocus=True,
            )
            self.send: Component = gr.Button(tr("send"), variant="primary", scale=1, min_width=90, elem_id="tx-send")
            self.stop: Component = gr.Button(
                tr("stop"), variant="stop", scale=1, min_width=90, visible=False, elem_id="tx-stop"
            )
        with gr.Row(elem_classes="tx-small"):
            self.regenerate_button: Component = gr.Button(tr("regenerate"), size="sm", elem_id="tx-regenerate")
            self.continue_button: Component = gr.Button(tr("continue"), size="sm", elem_id="tx-continue")
            self.new_chat_button: Component = gr.Button(tr("new_chat"), size="sm", elem_id="tx-new")

    def build_system_message(self) -> None:
        """Create the field of the system message inside the current Gradio container, which is among the parameters."""
        tr = self._page.tr
        card = gr.Column(elem_classes="tx-card", elem_id="tx-side")
        with card, gr.Accordion(tr("system_message"), open=False, elem_id="tx-system-card"):
            self.system: Component = gr.Textbox(
                value=self._app.settings.current.system_message,
                label=tr("system_message"),
                show_label=False,
                info=tr("system_info"),
                lines=2,
                elem_id="tx-system",
                elem_classes="tx-opt",
            )

    def listen(self, parameters: ParametersTab) -> None:
        """Attach the handlers, once all tabs exist: answers are generated with the `parameters` of that tab."""
        self._parameters, on = parameters, self._page.on
        reads = {self.chatbot, self.text, self.system, *parameters.widgets.values()}
        writes = [self.chatbot, self.text, self.line, self.send, self.stop]
        answering: Options = {"failed": self.failed, "concurrency_limit": None}
        runs = [
            on([self.text.submit, self.send.click], self.ask, reads, writes, **answering),
            on([self.regenerate_button.click, self.chatbot.retry], self.regenerate, reads, writes, **answering),
            on(self.continue_button.click, self.continue_answer, reads, writes, **answering),
        ]
        on(self.stop.click, self.idle, None, [self.send, self.stop], cancels=runs, queue=False)
        on(self.new_chat_button.click, self.new_chat, None, writes, cancels=runs, queue=False)
        on(self.chatbot.edit, self.edit, [self.chatbot], [self.chatbot, self.line], alert=self.line, queue=False)

    # -- handlers ---------------------------------------------------------------------------------------------------

    def refresh(self, shown_notice: object) -> Updates:
        """Show what the preparation has changed since the page showed the notice `shown_notice`."""
        changed = self.notice.update(shown_notice)
        if changed[self.notice.part] == gr.skip():
            return changed
        return changed | {self.chatbot: gr.update(placeholder=self._page.tr(greeting(self._app)))}

    def idle(self) -> Updates:
        """Show Send, as no answer is being generated."""
        return {self.send: gr.update(visible=True), self.stop: gr.update(visible=False)}

    def _busy(self) -> Updates:
        return {self.send: gr.update(visible=False), self.stop: gr.update(visible=True)}

    def new_chat(self) -> Updates:
        """Start an empty conversation."""
        return self.idle() | {self.chatbot: [], self.line: ""}

    def edit(self, chatbot: Json, change: gr.EditData) -> Updates:  # type: ignore[name-defined]
        """Replace the text of one message; the others stay as they are."""
        history = _plain(chatbot)
        index = change.index[0] if isinstance(change.index, (list, tuple)) else change.index
        if 0 <= index < len(history):
            history[index]["content"] = str(change.value)
        return {self.chatbot: history}

    async def ask(self, values: Values) -> AsyncIterator[Updates]:
        """Send the message that was typed."""
        question = str(values[self.text] or "").strip()
        if not question:
            return
        history = [*_plain(values[self.chatbot]), {"role": "user", "content": question}]
        async for updates in self._answer(history, values, clear=True):
            yield updates

    async def regenerate(self, values: Values) -> AsyncIterator[Updates]:
        """Answer the last question again."""
        history = _plain(values[self.chatbot])
        while history and history[-1]["role"] != "user":
            history.pop()
        if not history:
            yield {self.line: self._page.info("nothing_to_regenerate")}
            return
        async for updates in self._answer(history, values):
            yield updates

    async def continue_answer(self, values: Values) -> AsyncIterator[Updates]:
        """Extend the last answer."""
        history = _plain(values[self.chatbot])
        if not history or history[-1]["role"] != "assistant":
            yield {self.line: self._page.info("nothing_to_continue")}
            return
        async for updates in self._answer(history, values, continue_last=True):
            yield updates

    def failed(self, error: WebUIError) -> Updates:
        """Show an error below the conversation, and Send in place of Stop."""
        return self.idle() | {self.line: self._page.alert(error)}

    # -- an answer --------------------------------------------------------------------------------------------------

    async def _answer(
        self, history: History, values: Values, continue_last: bool = False, clear: bool = False
    ) -> AsyncIterator[Updates]:
        """Generate an answer to `history`. The text box is cleared only once a model is there to answer."""
        model = self._app.models.current
        params = self._parameters.params(values, model.loader)
        first = {self.chatbot: history, self.line: ""} | ({self.text: ""} if clear else {})
        yield self._busy() | first
        async for updates in self._stream(model, history, params, str(values[self.system] or ""), continue_last):
            yield updates
        yield self.idle()

    async def _stream(
        self, model: LoadedModel, history: History, params: Mapping[str, Json], system: str, continue_last: bool
    ) -> AsyncIterator[Updates]:
        system_messages: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
        conversation = (self._app.templates, model, [*system_messages, *history], params)
        build = partial(conversation_prompt, *conversation, continue_last=continue_last, drop_oldest=True)
        prompt = await asyncio.to_thread(build)
        reply = history.pop()["content"] if continue_last else ""
        flushed = 0.0
        async with aclosing(model.stream(prompt, params)) as events:
            async for event in events:
                if isinstance(event, Text):
                    reply += event.text
                    if time.monotonic() - flushed >= FLUSH_SECONDS:
                        flushed = time.monotonic()
                        yield {self.chatbot: _with(history, reply), self.line: ""}
                elif isinstance(event, Done):
                    yield {self.chatbot: _with(history, reply), self.line: self._summary(event, model)}
                else:
                    yield {self.line: self._progress(event)}

    def _progress(self, event: Waiting | Progress) -> str:
        if isinstance(event, Waiting):
            return self._page.info("waiting", position=event.position)
        return self._page.info("reading", percent=round(event.done * 100))

    def _summary(self, done: Done, model: LoadedModel) -> str:
        tr = self._page.tr
        # Prefill yields the first token, so the decode time is that of one token fewer.
        speed = (done.completion_tokens - 1) / done.decode_seconds if done.decode_seconds else 0
        text = tr("speed").format(
            tokens=done.completion_tokens,
            speed=f"{speed:.1f}",
            prompt=done.prompt_tokens,
            cached=done.cached_tokens,
            used=done.prompt_tokens + done.completion_tokens,
            context=model.info.context_length,
        )
        return messages.info(f"{text} · {tr('cut')}" if done.reason == "length" else text)


def _with(history: History, reply: str) -> History:
    return [*history, {"role": "assistant", "content": reply}]


def _plain(chatbot: Json) -> History:
    """Return the conversation as plain texts, in whatever shape Gradio or a hand-made request sent it."""
    return [{"role": _role(message), "content": _text(message.get("content"))} for message in chatbot or []]


def _role(message: Mapping[str, Json]) -> str:
    return "assistant" if message.get("role") == "assistant" else "user"


def _text(content: Json) -> str:
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    if isinstance(content, Mapping):
        return str(content.get("text", ""))
    return str(content or "")
