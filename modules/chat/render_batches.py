"""Render the prompts of requests that come at the same time by one request to the renderer.

The way to the process that renders, and back, takes longer than a short rendering. For hundreds of requests at once it
would take longer than all else that is done before they reach the model.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from modules.chat.errors import NoDefaultTemplate, TemplateStopped
from modules.chat.message import Message
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.runtime.loaded_model import LoadedModel
from modules.system.work_threads import WorkThreads

MOST_TOGETHER = 128
"""Renderings of one batch. Its time and memory are limited as those of a single one are."""


@dataclass(frozen=True)
class RenderedPrompt:
    """The prompt for an answer, and the template that rendered it, which is the model's own."""

    template: ModelTemplate
    text: str


@dataclass(eq=False, slots=True)
class _Batch:
    """Conversations with one model, and where the prompt of each is awaited: None if it was not rendered."""

    model: LoadedModel
    conversations: list[Sequence[Message]] = field(default_factory=list)
    prompts: list[asyncio.Future[RenderedPrompt | None]] = field(default_factory=list)


class RenderBatches:
    """Renders prompts for the tasks of one event loop in `threads`, those together that are asked for at once."""

    def __init__(self, templates: ChatTemplates, threads: WorkThreads) -> None:
        self._templates, self._threads = templates, threads
        self._open: list[_Batch] = []
        self._running: set[asyncio.Task[None]] = set()

    async def prompt(self, model: LoadedModel, messages: Sequence[Message]) -> RenderedPrompt | None:
        """Return the prompt for an answer to messages that are short and have no pictures.

        None if it must be rendered alone: the template is not the model's own, nothing is known of it yet, it refused
        the messages, or the batch exceeded a limit.
        """
        prompt: asyncio.Future[RenderedPrompt | None] = asyncio.get_running_loop().create_future()
        batch = self._batch_of(model)
        batch.conversations.append(messages)
        batch.prompts.append(prompt)
        return await prompt

    def _batch_of(self, model: LoadedModel) -> _Batch:
        """Return the batch of a model that is sent when all tasks that are ready now have asked."""
        if not self._open:
            asyncio.get_running_loop().call_soon(self._send)
        for batch in reversed(self._open):
            if batch.model is model and len(batch.prompts) < MOST_TOGETHER:
                return batch
        self._open.append(_Batch(model))
        return self._open[-1]

    def _send(self) -> None:
        batches, self._open = self._open, []
        for batch in batches:
            task = asyncio.create_task(self._settle(batch))
            self._running.add(task)
            task.add_done_callback(self._running.discard)

    async def _settle(self, batch: _Batch) -> None:
        rendered: Sequence[RenderedPrompt | None] = [None] * len(batch.prompts)
        try:
            rendered = await self._threads.run(self._rendered, batch.model, batch.conversations)
        finally:
            for prompt, value in zip(batch.prompts, rendered, strict=True):
                if not prompt.done():  # whoever asked may have left
                    prompt.set_result(value)

    def _rendered(
        self, model: LoadedModel, conversations: Sequence[Sequence[Message]]
    ) -> Sequence[RenderedPrompt | None]:
        template = self._templates.of(model.record, model.info)
        if template.origin == "model" and self._templates.is_probed(template):
            with contextlib.suppress(TemplateStopped, NoDefaultTemplate):
                renderings = self._templates.render_together(template, conversations)
                return [None if one.error else RenderedPrompt(template, one.text) for one in renderings]
        return [None] * len(conversations)
