"""Measure one price: load both values in turns, in a thread of its own."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import uuid
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from modules.core.errors import InternalError, WebUIError
from modules.core.product import LOG_FILE
from modules.evaluation import fingerprint
from modules.evaluation.price_loads import PriceLoads, Stop
from modules.evaluation.price_measure import MAX_CHARACTERS, SpeedTest, measure, plan_speed_test
from modules.evaluation.price_quality import Quality
from modules.evaluation.price_request import PriceRequest
from modules.evaluation.price_result import Measurement, PriceResult, effects_of
from modules.evaluation.price_state import PriceState
from modules.evaluation.price_store import PriceResults
from modules.evaluation.texts import EvaluationText
from modules.loaders.availability import overlay_of
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.setup.installed import REPORTED, installed_packages, machine
from modules.system import gpus
from modules.system.foreign_load import ForeignLoad

log = logging.getLogger(__name__)


class PriceRun:
    """One measurement. Any thread may call `stop`, and read `state`, which is replaced as a whole."""

    def __init__(
        self, request: PriceRequest, text: EvaluationText, loads: PriceLoads, results: PriceResults, cache: Path
    ) -> None:
        self.id = uuid.uuid4().hex[:12]
        self._request, self._loads, self._results = request, loads, results
        self._text = dataclasses.replace(text, text=text.text[:MAX_CHARACTERS])
        self._cache = cache / self.id
        self._stop = Stop()
        self._tests: dict[int, SpeedTest] = {}
        self._began = 0.0
        self._lock = threading.Lock()  # guards the next field
        self._has_begun = False
        self.ended = threading.Event()
        self.state = PriceState(self.id, request, total=2 + 2 * request.pairs)

    def stop(self) -> None:
        """Stop at once. Nothing is kept of the measurement."""
        self._stop.request()
        with self._lock:
            if not self._has_begun and not self.ended.is_set():
                self.state = dataclasses.replace(self.state, phase="stopped")
                self.ended.set()

    def run(self) -> None:
        """Measure, and keep the result. Does nothing after `stop`."""
        with self._lock:
            if self.ended.is_set():
                return
            self._has_begun = True
        self._began = time.monotonic()
        outcome: dict[str, Any] = {"phase": "failed", "error": InternalError(LOG_FILE)}
        try:
            result = self._measure()
            outcome = {"phase": "done", "result": result, "error": self._keep(result)}
        except WebUIError as error:
            stopped = self._stop.is_requested
            outcome = {"phase": "stopped"} if stopped else {"phase": "failed", "error": error}
        finally:
            self._show(value="", **outcome)
            self.ended.set()

    def _measure(self) -> PriceResult:
        self._show(phase="quality")
        self._loads.check(self._request)  # models may have been loaded while it was queued
        self._loads.unload_residents()
        plans = self._loads.plans(self._request)
        quality = Quality(self._text, self._cache)
        try:
            for side in (0, 1):
                self._load(plans, side, quality.add)
        finally:
            quality.close()
        self._show(phase="measuring")
        for number in range(self._request.pairs):
            order = (0, 1) if number % 2 == 0 else (1, 0)
            measured = {side: self._measure_load(plans, side) for side in order}
            self._show(pairs=(*self.state.pairs, (measured[0], measured[1])))
        return self._result(plans, quality)

    def _load(self, plans: tuple[LoadPlan, LoadPlan], side: int, use: Callable[[LoadedModel], None]) -> None:
        """Load one side once, and use it."""
        self._show(value=(self._request.a, self._request.b)[side])
        with self._loads.load(plans[side], self._stop) as fresh:
            use(fresh.model)
        self._show(done=self.state.done + 1)

    def _measure_load(self, plans: tuple[LoadPlan, LoadPlan], side: int) -> Measurement:
        self._show(value=(self._request.a, self._request.b)[side])
        foreign, free = ForeignLoad(), _free_gpu_memory()
        with self._loads.load(plans[side], self._stop) as fresh:
            found = measure(fresh.model, self._test(fresh.model), fresh.seconds)
            found = dataclasses.replace(
                found,
                gpu_memory=float(max(free - _free_gpu_memory(), 0)),
                foreign_load=foreign.share([fresh.model.pid]),
            )
        self._show(done=self.state.done + 1, foreign_load=max(self.state.foreign_load, found.foreign_load))
        return found

    def _test(self, model: LoadedModel) -> SpeedTest:
        """Return the prompts, which are the same for all loads with the same context."""
        context = model.info.context_length
        if context not in self._tests:
            ids: list[int] = model.ask("encode", text=self._text.text, add_special=False)
            self._tests[context] = plan_speed_test(ids, context)
        return self._tests[context]

    def _result(self, plans: tuple[LoadPlan, LoadPlan], quality: Quality) -> PriceResult:
        pairs, request = self.state.pairs, self._request
        loads = [measurement for pair in pairs for measurement in pair]
        effect = quality.effect()
        return PriceResult(
            id=self.id,
            key=request.key,
            a=request.a,
            b=request.b,
            model=plans[0].record.name,
            loader=plans[0].loader.name,
            effects=(*([effect] if effect else []), *effects_of(pairs)),
            **quality.divergence(),
            quality_problem=quality.problem,
            text=self._text.name,
            tokens=quality.tokens,
            pairs=len(pairs),
            foreign_load=sum(load.foreign_load for load in loads) / len(loads),
            date=datetime.now().strftime("%Y-%m-%d %H:%M:%S"),
            seconds=time.monotonic() - self._began,
            machine=machine(),
            packages=_packages(plans),
            options_hash=fingerprint.hash_json([[plan.loader.name, plan.options] for plan in plans]),
            model_hash=_model_hash(plans),
        )

    def _keep(self, result: PriceResult) -> WebUIError | None:
        try:
            self._results.add(result)
        except WebUIError as error:  # what was measured is shown all the same
            log.warning("%s", error)
            return error
        return None

    def _show(self, **changes: Any) -> None:
        self.state = dataclasses.replace(self.state, seconds=time.monotonic() - self._began, **changes)


def _free_gpu_memory() -> int:
    """Return the bytes that are free on all GPUs; 0 without any."""
    return sum(gpu.free for gpu in gpus.detect_gpus())


def _packages(plans: tuple[LoadPlan, LoadPlan]) -> dict[str, str]:
    """Return the versions of the backends that the loaders of both sides use."""
    installed = installed_packages()
    overlays = [overlay_of(plan.loader, plan.record.format, plan.options) for plan in plans]
    names = ["", *(overlay.name for overlay in overlays if overlay is not None)]
    found = {package.name: package.version for name in names for package in installed.get(name, [])}
    return {name: version for name, version in found.items() if name.replace("-", "_").lower() in REPORTED}


def _model_hash(plans: tuple[LoadPlan, LoadPlan]) -> str:
    """Return a fingerprint of the models' files; "" if they have just been changed or deleted."""
    try:
        return fingerprint.hash_json([fingerprint.hash_files(plan.record.path) for plan in plans])
    except OSError as error:
        log.warning("%s: %s", plans[0].record.name, error)
        return ""
