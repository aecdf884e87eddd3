"""Prompts that are asked for at the same time are rendered together, and each asker gets its own or is told to wait."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from modules.catalog.record import ModelRecord
from modules.chat.message import Message
from modules.chat.render_batches import MOST_TOGETHER, RenderBatches, RenderedPrompt
from modules.chat.renderer import Rendering
from modules.chat.templates import ChatTemplates, ModelTemplate
from modules.loaders.load_settings import resolve
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager
from modules.system.work_threads import WorkThreads
from tests.conftest import ECHO

TEMPLATE = (
    "{% for m in messages %}{% if m.content == 'refused' %}{{ raise_exception('no') }}{% endif %}"
    "{% if m.content == 'large' %}{{ 'large' * 2000000 }}{% endif %}"
    "{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}answer:{% endif %}"
)


class CountingTemplates(ChatTemplates):
    """Remembers how many conversations each request to the renderer had."""

    def __init__(self, choose: Callable[[ModelTemplate], ModelTemplate] | None = None) -> None:
        super().__init__(choose)
        self.sizes: list[int] = []

    def render_together(self, template: ModelTemplate, conversations: Sequence[Sequence[Message]]) -> list[Rendering]:
        self.sizes.append(len(conversations))
        return super().render_together(template, conversations)


@pytest.fixture(scope="module")
def models() -> Iterator[list[LoadedModel]]:
    """Two models with the same template."""
    managers = [ModelManager(), ModelManager()]
    records = [ModelRecord(name, Path("/models/echo"), "gguf", 0, chat_template=TEMPLATE) for name in "ab"]
    plans = [LoadPlan(record, ECHO, resolve(ECHO, model={}, saved={}, flags={}, form={})) for record in records]
    yield [manager.load(plan) for manager, plan in zip(managers, plans, strict=True)]
    for manager in managers:
        manager.unload()


def probed(model: LoadedModel, choose: Callable[[ModelTemplate], ModelTemplate] | None = None) -> CountingTemplates:
    """Return templates that know the one of `model`."""
    templates = CountingTemplates(choose)
    templates.next_turn(templates.of(model.record, model.info))
    return templates


def question(text: str) -> list[Message]:
    return [{"role": "user", "content": text}]


def together(*asking: Coroutine[Any, Any, RenderedPrompt | None]) -> list[str | None]:
    """Return the texts of the prompts that are asked for at the same time."""

    async def ask() -> list[RenderedPrompt | None]:
        return await asyncio.gather(*asking)

    return [prompt and prompt.text for prompt in asyncio.run(ask())]


def test_prompts_that_are_asked_for_together_are_one_request_and_equal_to_those_rendered_alone(
    models: list[LoadedModel],
) -> None:
    templates = probed(models[0])
    batches = RenderBatches(templates, WorkThreads())
    texts = [f"question {number}" for number in range(5)]
    prompts = together(*(batches.prompt(models[0], question(text)) for text in texts))
    own = templates.of(models[0].record, models[0].info)
    assert prompts == [templates.render(own, question(text)) for text in texts]
    assert prompts[1] == "user: question 1\nanswer:" and templates.sizes == [5]


def test_a_batch_has_one_model_and_a_bounded_number_of_prompts(models: list[LoadedModel]) -> None:
    templates = probed(models[0])
    batches = RenderBatches(templates, WorkThreads())
    asked = [models[number % 2] for number in range(2 * MOST_TOGETHER + 2)]
    prompts = together(*(batches.prompt(model, question(str(number))) for number, model in enumerate(asked)))
    assert prompts == [f"user: {number}\nanswer:" for number in range(len(asked))]
    assert sorted(templates.sizes) == [1, 1, MOST_TOGETHER, MOST_TOGETHER]


def test_a_conversation_that_the_template_refuses_is_left_to_its_asker_alone(models: list[LoadedModel]) -> None:
    batches = RenderBatches(probed(models[0]), WorkThreads())
    asking = (batches.prompt(models[0], question(text)) for text in ("one", "refused", "two"))
    assert together(*asking) == ["user: one\nanswer:", None, "user: two\nanswer:"]


def test_a_batch_that_exceeds_a_limit_is_left_to_its_askers(models: list[LoadedModel]) -> None:
    batches = RenderBatches(probed(models[0]), WorkThreads())
    assert together(*(batches.prompt(models[0], question(text)) for text in ("one", "large"))) == [None, None]
    assert together(batches.prompt(models[0], question("one"))) == ["user: one\nanswer:"]


def test_a_template_that_is_not_known_yet_or_not_the_models_own_is_left_to_the_asker(
    models: list[LoadedModel],
) -> None:
    model = models[0]
    for templates in (
        CountingTemplates(),
        probed(model, lambda own: dataclasses.replace(own, source="{{ messages }}", origin="chosen")),
    ):
        assert together(RenderBatches(templates, WorkThreads()).prompt(model, question("one"))) == [None]
        assert not templates.sizes


def test_whoever_leaves_does_not_take_the_prompts_of_the_others_along(models: list[LoadedModel]) -> None:
    batches = RenderBatches(probed(models[0]), WorkThreads())

    async def ask() -> RenderedPrompt | None:
        leaving, staying = (asyncio.create_task(batches.prompt(models[0], question(text))) for text in "ab")
        await asyncio.sleep(0)
        leaving.cancel()
        prompt = await staying
        assert leaving.cancelled()
        return prompt

    prompt = asyncio.run(ask())
    assert prompt is not None and prompt.text == "user: b\nanswer:" and prompt.template.origin == "model"
