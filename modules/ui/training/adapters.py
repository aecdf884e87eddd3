"""Use the LoRA of a finished run: apply it to its base model, and compare the answers of both."""

from __future__ import annotations

import dataclasses

from modules.app import App
from modules.chat.prompt import chat_prompt
from modules.core.errors import NoModelLoaded
from modules.core.events import Json, Text
from modules.core.lora_errors import LoraNotFound
from modules.loaders import generation_settings
from modules.planning.load_request import LoadRequest
from modules.runtime.loaded_model import LoadedModel
from modules.training.page_errors import BaseNotLoaded
from modules.training.run import RunView
from modules.training.start import training_loader

MAX_ANSWER = 200
"""Tokens of an answer that is compared."""
MAX_PROMPT = 8_000
"""Characters of the question."""


def adapter_of(app: App, view: RunView) -> str:
    """Return the name of the LoRA that a run has made. Raises LoraNotFound if there is none, or no longer."""
    if not view.adapter:
        raise LoraNotFound(str(view.run.parameters["lora_name"]))
    return app.loras.catalog.find(view.adapter).name


def apply_adapter(app: App, name: str) -> None:
    """Apply the LoRA of a run, and no other, to its base model; load that in the background if it is not loaded.

    Raises TrainingRunNotFound, LoraNotFound, ModelNotFound, and what `LoraManager.apply`, `Planner.plan` and
    `LoadService.begin` raise.
    """
    view = app.training.runs.view(name)
    adapter = adapter_of(app, view)
    status = app.models.status
    if status.state == "ready" and status.name == view.run.model:
        app.loras.apply({adapter: 1.0})
        return
    plan = app.planner.plan(LoadRequest(app.record(view.run.model), training_loader().name))
    app.loading.begin(dataclasses.replace(plan, loras={adapter: 1.0}))


def compare(app: App, name: str, question: str) -> dict[str, Json]:
    """Return the most likely answers of the base model and of the LoRA. The LoRAs applied before are applied again.

    Raises TrainingRunNotFound, LoraNotFound, BaseNotLoaded, and what the two generations raise.
    """
    view = app.training.runs.view(name)
    adapter = adapter_of(app, view)
    try:
        model = app.models.current
    except NoModelLoaded:
        raise BaseNotLoaded(view.run.model) from None
    if model.record.name != view.run.model:
        raise BaseNotLoaded(view.run.model)
    before = {lora.name: lora.weight for lora in model.loras}
    answers: dict[str, Json] = {}
    try:
        for key, weights in (("base", {}), ("lora", {adapter: 1.0})):
            app.loras.apply(weights, model)
            answers[key] = _answer(app, model, question)
    finally:
        app.loras.apply(before, model)
    return answers


def _answer(app: App, model: LoadedModel, question: str) -> str:
    params = generation_settings.resolve({"do_sample": False, "max_new_tokens": MAX_ANSWER})
    prompt = chat_prompt(app.templates, model, [{"role": "user", "content": question}], params)
    return "".join(event.text for event in model.generate(prompt.prompt, params) if isinstance(event, Text)).strip()
