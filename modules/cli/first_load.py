"""What a start loads: the model that `--model` names, at once or after the preparation; after that, the demo model."""

from __future__ import annotations

import logging
from functools import partial

from modules.app import App
from modules.core.errors import WebUIError
from modules.loaders.registry import LLAMACPP, overlay_of, unavailable
from modules.planning.load_request import LoadRequest
from modules.system.terminal import terminal_language

log = logging.getLogger(__name__)


def begin(app: App) -> None:
    """Prepare what is missing, with `--prepare`; load what `--model` names, unless it has to wait for that."""
    waits = app.flags.on("prepare") and _needs_llamacpp(app)
    if app.flags.on("prepare"):
        elsewhere = bool(app.flags.text("model_dir"))  # another folder of models is the user's own affair
        app.preparation.begin(
            partial(_load, app),
            demo=app.named_model is None and not elsewhere and not app.flags.on("no_demo"),
            waiting=app.named_model.name if app.named_model is not None and waits else "",
        )
    if app.named_model is not None and not waits:
        _load(app, app.named_model.name)


def _load(app: App, name: str, number: int | None = None) -> None:
    """Load a model. A failure is logged, and shown by the page, which stays up."""
    try:
        record = app.record(name)
        if app.flags.on("trust_changed_code"):
            app.consent.agree(record)
        app.loading.begin(app.planner.plan(LoadRequest(record)), number).result()
    except WebUIError as error:
        log.error("%s", error.say(terminal_language()))


def _needs_llamacpp(app: App) -> bool:
    """Whether the model of `--model` cannot be loaded before llama.cpp is installed."""
    if app.named_model is None:
        return False
    try:
        plan = app.planner.plan(LoadRequest(app.named_model))
    except WebUIError:  # loading it will tell
        return False
    kind = plan.record.format
    return overlay_of(plan.loader, kind) == LLAMACPP and unavailable(plan.loader, kind) is not None
