"""Provide the models of an evaluation: the loaded one, or one that is loaded for it."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator
from concurrent.futures import TimeoutError as FutureTimeout

from modules.catalog.record import ModelRecord
from modules.core.embedding_errors import KINDS, CannotGenerate
from modules.core.worker_errors import LoadCancelled
from modules.evaluation.errors import ModelsInTheWay
from modules.evaluation.request import EvaluationRequest, Subject
from modules.planning.load_request import LoadRequest
from modules.planning.load_service import LoadService
from modules.planning.memory_budget import MemoryBudget
from modules.planning.planner import Planner
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_manager import ModelManager

_POLL_SECONDS = 0.1


class SubjectLoader:
    """Plans and loads the models of evaluations through the same services as everything else."""

    def __init__(
        self,
        models: ModelManager,
        planner: Planner,
        loading: LoadService,
        find_record: Callable[[str], ModelRecord],
        memory: MemoryBudget,
    ) -> None:
        self._models, self._planner, self._loading = models, planner, loading
        self._find_record, self._memory = find_record, memory

    def check(self, request: EvaluationRequest) -> None:
        """Raise what is wrong with the models of a request before anything is loaded.

        Raises ModelNotFound, NoModelLoaded, CannotGenerate, what `Planner.plan` raises, or ModelsInTheWay.
        """
        own = {subject.model for subject in request.subjects}
        for subject in request.subjects:
            if not subject.model:
                _ = self._models.current  # raises if there is none
                continue
            plan = self.plan(subject)
            if plan.record.task:
                raise CannotGenerate(plan.record.name, KINDS[plan.record.task])
            loaded = self._models.loaded()
            others = [model for model in loaded if model.record.name not in own]
            if request.may_unload or not others or any(model.plan.loads_the_same(plan) for model in loaded):
                continue
            if not self._memory.fits(plan, [model.plan for model in others]):
                raise ModelsInTheWay(subject.model, [model.record.name for model in others])

    def plan(self, subject: Subject) -> LoadPlan:
        """Return how a model is loaded. Raises what `Planner.plan` raises, and the problem of a LoRA."""
        plan = self._planner.plan(LoadRequest(self._find_record(subject.model), subject.loader, form=subject.options))
        if subject.loras is not None:
            plan = dataclasses.replace(plan, loras=subject.loras)
        plan = self._loading.prepare(plan)
        if plan.lora_problem is not None:
            raise plan.lora_problem
        return plan

    @contextlib.contextmanager
    def provide(self, subject: Subject, is_stopped: Callable[[], bool]) -> Iterator[LoadedModel]:
        """Keep a model loaded; load it unless it is, with the same options and LoRAs.

        Raises LoadCancelled once `is_stopped`, and why it could not be loaded.
        """
        if not subject.model:
            with self._models.current.lease() as model:
                yield model
            return
        plan = self.plan(subject)
        same = next((model for model in self._models.loaded() if model.plan.loads_the_same(plan)), None)
        model = same or self._load(plan, is_stopped)
        if model.lora_problem is not None:
            raise model.lora_problem
        with model.lease():
            yield model

    def _load(self, plan: LoadPlan, is_stopped: Callable[[], bool]) -> LoadedModel:
        outcome = self._loading.begin(plan)
        while True:
            with contextlib.suppress(FutureTimeout):
                return outcome.result(_POLL_SECONDS)
            if is_stopped():
                self._models.unload(plan.record.name)
                raise LoadCancelled(plan.record.name)
            time.sleep(0)
