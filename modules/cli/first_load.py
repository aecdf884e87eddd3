"""Load a model at the start: the one of `--model`, or the demo model once the preparation has downloaded it."""

from __future__ import annotations

import logging
from functools import partial

from modules.app import App
from modules.core.errors import WebUIError
from modules.loaders.availability import overlay_of, rpc_unavailable, unavailable
from modules.loaders.registry import RPC
from modules.planning.load_request import LoadRequest
from modules.setup import install
from modules.system.terminal import terminal_language

log = logging.getLogger(__name__)


def expect(app: App) -> None:
    """Show the model of `--model` as loading before `start`, so that nobody is told that none is."""
    if app.named_model is not None:
        app.models.expect(app.named_model.name)


def start(app: App) -> None:
    """Start the preparation if `--prepare` is set, and load the model of `--model`.

    A model whose loader is still to be installed by the preparation is loaded by the preparation when that is done.
    """
    waits = app.flags.on("prepare") and _needs_preparation(app)
    if app.flags.on("prepare"):
        other_folder = bool(app.flags.text("model_dir"))  # the demo model is put into models/ only
        app.preparation.start(
            partial(_load, app),
            demo=app.named_model is None and not other_folder and not app.flags.on("no_demo"),
            waiting=app.named_model.name if app.named_model is not None and waits else "",
        )
    try:
        if app.named_model is not None and not waits:
            _load(app, app.named_model.name, app.models.next_number())
    finally:
        app.models.expect("")


def _load(app: App, name: str, number: int | None = None) -> None:
    """Load a model. A failure is logged and shown on the page; the server keeps running."""
    try:
        record = app.record(name)
        if app.flags.on("trust_changed_code"):
            app.consent.agree(record)
        plan = app.planner.plan(LoadRequest(record))
        if plan.nodes and rpc_unavailable(plan.loader):
            app.overlays.start(RPC)
            install.watch(RPC, terminal_language(), app.overlays)
        app.loading.begin(plan, number).result()
    except WebUIError as error:
        log.error("%s", error.say_elsewhere(terminal_language()))


def _needs_preparation(app: App) -> bool:
    """Whether the loader of the model of `--model` is installed by the preparation and not installed yet."""
    if app.named_model is None:
        return False
    try:
        plan = app.planner.plan(LoadRequest(app.named_model))
    except WebUIError:  # `_load` reports it
        return False
    overlay = overlay_of(plan.loader, plan.record.format, plan.options)
    prepared = overlay is not None and overlay.prepared
    return prepared and unavailable(plan.loader, plan.record.format, plan.options) is not None
