"""Explain what loading a model would call, without loading it."""

from __future__ import annotations

import threading

from modules.core.errors import WebUIError
from modules.core.events import Json
from modules.core.worker_errors import Unloaded
from modules.loaders.availability import overlay_of, unavailable
from modules.loaders.overlay import Overlay
from modules.runtime.load_plan import LoadPlan
from modules.runtime.worker_process import WorkerProcess


class Explainer:
    """A worker that answers questions about plans. Any thread may call.

    Starting a process and importing its modules takes a third of a second of all cores, so the worker is kept while
    questions keep coming, and closed `patience` seconds after the last one.
    """

    def __init__(self, patience: float = 20.0) -> None:
        self._patience = patience
        self._lock = threading.Lock()
        self._worker: WorkerProcess | None = None
        self._overlay: Overlay | None = None
        self._timer = threading.Timer(0, self.close)

    def explain(self, plan: LoadPlan) -> Json:
        """Return {"calls": …, "notes": […]}: the backend's exact calls, and notes on options without effect.

        Raises LoaderUnavailable.
        """
        if reason := unavailable(plan.loader, plan.record.format, plan.options):
            raise reason
        args = {"engine": plan.loader.engine, "path": str(plan.record.path), "options": plan.options}
        overlay = overlay_of(plan.loader, plan.record.format, plan.options)
        try:
            return self._running_worker(overlay).call("explain", **args)
        except Unloaded:  # another question, for another overlay, or an unload has just closed this worker
            return self._running_worker(overlay).call("explain", **args)

    def check(self, plan: LoadPlan) -> None:
        """Raise the error with which a load would fail, whatever else is in memory, as far as its loader knows it."""
        if plan.loader.refuses_early and (refused := self.explain(plan).get("refused")):
            raise WebUIError.from_json(refused)

    def close(self) -> None:
        with self._lock:
            self._close_worker()

    def _running_worker(self, overlay: Overlay | None) -> WorkerProcess:
        with self._lock:
            if self._worker is None or self._worker.death is not None or self._overlay != overlay:
                self._close_worker()
                self._worker = WorkerProcess(overlay.folder if overlay else None)
                self._overlay = overlay
            self._timer.cancel()
            self._timer = threading.Timer(self._patience, self.close)
            self._timer.daemon = True
            self._timer.start()
            return self._worker

    def _close_worker(self) -> None:
        self._timer.cancel()
        if self._worker is not None:
            self._worker.close()
            self._worker = None
