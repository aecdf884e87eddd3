"""The Chat tab: a conversation with the loaded model."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing

from modules.app import App
from modules.chat.prompt import conversation_prompt
from modules.chat.templates import Message
from modules.core.events import Done, Json, Progress, Text, Waiting
from modules.runtime.loaded_model import LoadedModel
from modules.ui.gradio_import import gradio
from modules.ui.handlers import PRIVATE, Updates, Values, as_error
from modules.ui.locales import Tr, translator
from modules.ui.parameters.tab import ParametersTab
from modules.ui.preparation_notice import PreparationNotice, greeting
from modules.ui.widgets import html

gr = gradio()

History = list[dict[str, str]]

FLUSH_SECONDS = 0.08
"""The browser redraws the whole conversation for each update and falls behind if it gets one a token."""


class ChatTab:
    """Made inside a `gr.Tab`. The conversation lives in the browser's Chatbot; every handler gets all of it."""

    def __init__(self, app: App, language: str) -> None:
        self._app = app
        self._language = language
        self._tr: Tr = translator(language)
        self._build()

    # -- what it looks like -----------------------------------------------------------------------------------------

    def _build(self) -> None:
        tr = self._tr
        self.notice = PreparationNotice(self._app, self._language, tr, "tx-chat-prepare")
        self.bot = gr.Chatbot(
            elem_id="tx-chat",
            show_label=False,
            height="calc(100dvh - 372px)",
            min_height=260,
            editable="all",
            buttons=["copy"],
            reasoning_tags=[("<think>", "</think>")],
            latex_delimiters=[{"left": "$$", "right": "$$", "display": True}],
            placeholder=tr(greeting(self._app)),
            layout="bubble",
        )
        self.line = gr.HTML("", elem_id="tx-chat-line")
        with gr.Row(elem_classes="tx-row"):
            self.text = gr.Textbox(
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
            self.send = gr.Button(tr("send"), variant="primary", scale=1, min_width=90, elem_id="tx-send")
            self.stop = gr.Button(tr("stop"), variant="stop", scale=1, min_width=90, visible=False, elem_id="tx-stop")
        with gr.Row(elem_classes="tx-small"):
            self.again = gr.Button(tr("regenerate"), size="sm", elem_id="tx-regenerate")
            self.more = gr.Button(tr("continue"), size="sm", elem_id="tx-continue")
            self.new = gr.Button(tr("new_chat"), size="sm", elem_id="tx-new")
        side = gr.Column(elem_classes="tx-card", elem_id="tx-side")
        with side, gr.Accordion(tr("system_message"), open=False, elem_id="tx-system-card"):
            self.system = gr.Textbox(
                value=self._app.settings.current.system_message,
                label=tr("system_message"),
                show_label=False,
                info=tr("system_info"),
                lines=2,
                elem_id="tx-system",
                elem_classes="tx-opt",
            )

    # -- what it does -----------------------------------------------------------------------------------------------

    def listen(self, parameters: ParametersTab) -> None:
        """To be called once all tabs are made: answers follow the `parameters`."""
        self._parameters = parameters
        self.notice.listen()
        every = {self.bot, self.text, self.system, *parameters.widgets.values()}
        outputs = [self.bot, self.text, self.line, self.send, self.stop]
        answering = {"inputs": every, "outputs": outputs, "concurrency_limit": None}
        runs = [
            gr.on([self.text.submit, self.send.click], self.ask, **answering, **PRIVATE),
            gr.on([self.again.click, self.bot.retry], self.regenerate, **answering, **PRIVATE),
            self.more.click(self.go_on, **answering, **PRIVATE),
        ]
        self.stop.click(self.idle, None, [self.send, self.stop], cancels=runs, queue=False, **PRIVATE)
        self.new.click(self.begin, None, outputs, cancels=runs, queue=False, **PRIVATE)
        self.bot.edit(self.edit, self.bot, self.bot, queue=False, **PRIVATE)

    def look(self, notice_seen: object) -> Updates:
        """What the preparation has changed since this page showed the notice `notice_seen`."""
        changed = self.notice.update(notice_seen)
        if changed[self.notice.part] == gr.skip():
            return changed
        return changed | {self.bot: gr.update(placeholder=self._tr(greeting(self._app)))}

    def idle(self) -> Updates:
        return {self.send: gr.update(visible=True), self.stop: gr.update(visible=False)}

    def busy(self) -> Updates:
        return {self.send: gr.update(visible=False), self.stop: gr.update(visible=True)}

    def begin(self) -> Updates:
        return self.idle() | {self.bot: [], self.line: ""}

    def edit(self, bot: Json, change: gr.EditData) -> History:  # type: ignore[name-defined]
        """Put the changed text in its place; the rest of the conversation stays."""
        history = _plain(bot)
        index = change.index[0] if isinstance(change.index, (list, tuple)) else change.index
        if 0 <= index < len(history):
            history[index]["content"] = str(change.value)
        return history

    async def ask(self, given: Values) -> AsyncIterator[Updates]:
        question = str(given[self.text] or "").strip()
        if not question:
            return
        history = [*_plain(given[self.bot]), {"role": "user", "content": question}]
        async for updates in self._answer(history, given, clear=True):
            yield updates

    async def regenerate(self, given: Values) -> AsyncIterator[Updates]:
        history = _plain(given[self.bot])
        while history and history[-1]["role"] != "user":
            history.pop()
        if not history:
            yield {self.line: html.info(self._tr("nothing_to_regenerate"))}
            return
        async for updates in self._answer(history, given):
            yield updates

    async def go_on(self, given: Values) -> AsyncIterator[Updates]:
        history = _plain(given[self.bot])
        if not history or history[-1]["role"] != "assistant":
            yield {self.line: html.info(self._tr("nothing_to_continue"))}
            return
        async for updates in self._answer(history, given, continue_last=True):
            yield updates

    async def _answer(
        self, history: History, given: Values, continue_last: bool = False, clear: bool = False
    ) -> AsyncIterator[Updates]:
        """Let the model answer `history`. What was typed is only cleared once there is a model to answer it."""
        try:
            model = self._app.models.current
            params = self._parameters.params(given, model.loader)
            first = {self.bot: history, self.line: ""} | ({self.text: ""} if clear else {})
            yield self.busy() | first
            async for updates in self._stream(model, history, params, str(given[self.system] or ""), continue_last):
                yield updates
        except Exception as error:
            yield {self.line: html.alert(as_error(error), self._language, self._tr)}
        yield self.idle()

    async def _stream(
        self, model: LoadedModel, history: History, params: Mapping[str, Json], system: str, continue_last: bool
    ) -> AsyncIterator[Updates]:
        messages: list[Message] = [{"role": "system", "content": system}] if system.strip() else []
        fit = {"continue_last": continue_last, "drop_oldest": True}
        prompt = await asyncio.to_thread(conversation_prompt, model, [*messages, *history], params, **fit)
        reply = history.pop()["content"] if continue_last else ""
        flushed = 0.0
        async with aclosing(model.stream(prompt, params)) as events:
            async for event in events:
                if isinstance(event, Text):
                    reply += event.text
                    if time.monotonic() - flushed >= FLUSH_SECONDS:
                        flushed = time.monotonic()
                        yield {self.bot: _with(history, reply), self.line: ""}
                elif isinstance(event, Done):
                    yield {self.bot: _with(history, reply), self.line: self._summary(event, model)}
                else:
                    yield {self.line: html.info(self._how_far(event))}

    def _how_far(self, event: Waiting | Progress) -> str:
        if isinstance(event, Waiting):
            return self._tr("waiting").format(place=event.place)
        return self._tr("reading").format(percent=round(event.done * 100))

    def _summary(self, done: Done, model: LoadedModel) -> str:
        # The first token comes with the prompt, so that the time after it is that of one token fewer.
        speed = (done.completion_tokens - 1) / done.decode_seconds if done.decode_seconds else 0
        text = self._tr("speed").format(
            tokens=done.completion_tokens,
            speed=f"{speed:.1f}",
            prompt=done.prompt_tokens,
            cached=done.cached_tokens,
            used=done.prompt_tokens + done.completion_tokens,
            context=model.info.context_length,
        )
        return html.info(f"{text} · {self._tr('cut')}" if done.reason == "length" else text)


def _with(history: History, reply: str) -> History:
    return [*history, {"role": "assistant", "content": reply}]


def _plain(bot: Json) -> History:
    """The conversation as plain texts, whatever shape Gradio or a hand-made request gave it."""
    return [{"role": _role(message), "content": _text(message.get("content"))} for message in bot or []]


def _role(message: Mapping[str, Json]) -> str:
    return "assistant" if message.get("role") == "assistant" else "user"


def _text(content: Json) -> str:
    if isinstance(content, list):
        return "".join(_text(part) for part in content)
    if isinstance(content, Mapping):
        return str(content.get("text", ""))
    return str(content or "")
