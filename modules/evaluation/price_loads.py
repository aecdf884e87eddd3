"""Load both sides of a comparison, in workers that nobody else uses."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
import time
from collections.abc import Callable, Iterator

from modules.catalog.record import ModelRecord
from modules.core.worker_errors import LoadCancelled
from modules.evaluation.price_errors import NoPrice, ResidentsInTheWay
from modules.evaluation.price_request import PriceRequest, Variant
from modules.loaders.availability import unavailable
from modules.options.load import OPTIONS
from modules.planning.load_request import LoadRequest
from modules.planning.load_service import LoadService
from modules.planning.planner import Planner
from modules.runtime.core_binding import CoreBinding
from modules.runtime.load_plan import LoadPlan
from modules.runtime.loaded_model import LoadedModel
from modules.runtime.model_load import ModelLoad
from modules.runtime.model_manager import ModelManager
from modules.runtime.totals import GenerationTotals

_CONTEXT = "n_ctx"


@dataclasses.dataclass(frozen=True)
class FreshLoad:
    """A model that has just been loaded, and the seconds this took."""

    model: LoadedModel
    seconds: float


class PriceLoads:
    """Plans loads as the page does, and carries them out beside the model manager. Any thread may call."""

    def __init__(
        self,
        models: ModelManager,
        planner: Planner,
        loading: LoadService,
        find_record: Callable[[str], ModelRecord],
        cores: CoreBinding,
    ) -> None:
        self._models, self._planner, self._loading = models, planner, loading
        self._find_record, self._cores = find_record, cores

    def check(self, request: PriceRequest) -> None:
        """Raise what is wrong with a request before anything is unloaded or loaded.

        Raises ModelNotFound, LoaderUnavailable, what `Planner.plan` raises, NoPrice for an option that the loader does
        not have, or ResidentsInTheWay.
        """
        for variant in request.variants():
            loader = self._plan(variant).loader
            if request.key in OPTIONS and request.key not in loader.options:
                raise NoPrice(
                    request.key,
                    {
                        "en": f"The loader {loader.name} does not have this option.",
                        "zh": f"加载器 {loader.name} 没有此选项。",
                    },
                )
        if not request.may_unload and (names := self.residents()):
            raise ResidentsInTheWay(names)

    def residents(self) -> list[str]:
        """Return the models in memory, which must be unloaded first. Those on servers take nothing here."""
        local = (one for one in self._models.residents() if one.record.server is None)
        return [one.name for one in local if one.state in ("ready", "loading")]

    def unload_residents(self) -> None:
        for name in self.residents():
            self._models.unload(name)

    def plans(self, request: PriceRequest) -> tuple[LoadPlan, LoadPlan]:
        """Return how both sides are loaded. Raises what `check` raises, and the problem of a LoRA.

        A context that was reduced to what fits in memory is the same for both: the smaller one.
        """
        first, second = (self._plan(variant) for variant in request.variants())
        contexts = [plan.settings[_CONTEXT] for plan in (first, second) if _CONTEXT in plan.settings]
        if len(contexts) == 2 and any(setting.source == "memory" for setting in contexts):
            smaller = min(value for setting in contexts if (value := int(setting.value)))
            first, second = (self._plan(variant, {_CONTEXT: smaller}) for variant in request.variants())
        return first, second

    def _plan(self, variant: Variant, more: dict[str, object] | None = None) -> LoadPlan:
        record, form = self._find_record(variant.model), {**(more or {}), **variant.options}
        plan = self._planner.plan(LoadRequest(record, variant.loader, form=form))
        if (reason := unavailable(plan.loader, record.format, plan.options)) is not None:
            raise reason
        plan = self._loading.prepare(plan)
        if plan.lora_problem is not None:
            raise plan.lora_problem
        return plan

    @contextlib.contextmanager
    def load(self, plan: LoadPlan, stop: Stop) -> Iterator[FreshLoad]:
        """Load a model in a new worker, which ends with the block.

        Raises why it could not be loaded, or LoadCancelled; after `stop`, calls of the model raise Unloaded.
        """
        load = ModelLoad(plan, self._cores, lambda _death: None, lambda: None, GenerationTotals())
        with stop.cancelling(load):
            began = time.monotonic()
            model = load.run(lambda _progress: None)
            try:
                if model.lora_problem is not None:
                    raise model.lora_problem
                yield FreshLoad(model, time.monotonic() - began)
            finally:
                model.close()


class Stop:
    """The wish to stop, from any thread, which ends the load under way."""

    def __init__(self) -> None:
        self._lock = threading.Lock()  # guards the fields below
        self._is_requested = False
        self._load: ModelLoad | None = None

    @property
    def is_requested(self) -> bool:
        return self._is_requested

    def request(self) -> None:
        with self._lock:
            self._is_requested, load = True, self._load
        if load is not None:
            load.cancel()

    @contextlib.contextmanager
    def cancelling(self, load: ModelLoad) -> Iterator[None]:
        """Let `request` end this load, and its worker. Raises LoadCancelled if it has been called before."""
        with self._lock:
            if self._is_requested:
                raise LoadCancelled("")
            self._load = load
        try:
            yield
        finally:
            with self._lock:
                self._load = None
